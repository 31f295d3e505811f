"""Replacing blocks by fitted maps, by the command line: a model with an exactly affine block, written and reopened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from loralab.analysis.layers.linearize import as_runs
from loralab.cli.main import main
from loralab.models.linearized import load_linearized
from loralab.models.load import load_model
from loralab.models.surgery.affine import TENSORS
from loralab.models.surgery.blocks import blocks_of
from tiny import write_llama

Linearized = Callable[..., int]


@pytest.fixture
def linearize(tmp_path: Path) -> Linearized:
    """`loralab analyse linearize` on a model of four blocks, of which block 2 adds almost nothing."""
    folder, text = write_llama(tmp_path / "model", num_hidden_layers=4), tmp_path / "text.txt"
    loaded = load_model(str(folder), dtype="float32")
    with torch.no_grad():
        loaded.model.model.layers[2].mlp.down_proj.weight.mul_(1e-4)
    loaded.model.save_pretrained(folder)
    text.write_text("".join(f"{number * 7919 % 1000} is a number. " for number in range(3000)))
    sizes = ["--chars", 60, "--chunks", 30, "--pieces", 2, "--task", "none"]

    def run(*more: object) -> int:
        given = ["--model", folder, "--data", text, *sizes, "--out", tmp_path / "out", "--dtype", "float32", *more]
        return main(["analyse", "linearize", *map(str, given)])

    return run


def answer_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_run_is_replaced_measured_and_reopened(
    linearize: Linearized, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert linearize("--blocks", "0,2-3", "--json") == 0
    answer, out = answer_of(capsys), tmp_path / "out"
    assert answer["replaced_blocks"] == [0, 2, 3]
    assert [each["blocks"] for each in answer["runs"]] == ["0", "2-3"]
    assert all(0 < each["explained"] <= 1 for each in answer["runs"])
    perplexities = {answer[name]["perplexity"] for name in ("before", "dropped", "replaced")}
    assert len(perplexities) == 3
    model = load_linearized(out, dtype="float32").model
    assert [type(block).__name__ for block in blocks_of(model)] == ["AffineBlock", "LlamaDecoderLayer", "AffineBlock"]
    assert answer["parameters_after"] == model.num_parameters()
    assert len(blocks_of(load_model(str(out / "remaining")).model)) == 1
    assert (out / "linearize.png").is_file()
    assert json.loads((out / "linearize.json").read_text())["runs"] == answer["runs"]


def test_maps_are_distilled(linearize: Linearized, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--blocks", "0,2-3", "--distill", 20, "--distill-lr", 0.003, "--distill-batch", 3]
    assert linearize(*flags, "--json") == 0
    answer = answer_of(capsys)
    found = answer["distillation"]
    assert len(found["losses"]) == found["steps"] == 20
    assert found["after"]["states"] < found["before"]["states"]
    assert len({answer[name]["perplexity"] for name in ("before", "dropped", "replaced", "distilled")}) == 4
    assert linearize("--blocks", "0,2-3", "--out", tmp_path / "plain", "--json") == 0
    plain = answer_of(capsys)
    assert {"distilled", "distillation"}.isdisjoint(plain)
    assert all(plain[name] == answer[name] for name in ("before", "dropped", "replaced", "runs"))
    for file in ("remaining/model.safetensors", "affine_blocks.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()
    assert (tmp_path / "plain" / TENSORS).read_bytes() != (tmp_path / "out" / TENSORS).read_bytes()
    assert linearize(*flags, "--out", tmp_path / "again") == 0
    assert "distilled: with the maps after 20 steps" in capsys.readouterr().out
    assert (tmp_path / "again" / TENSORS).read_bytes() == (tmp_path / "out" / TENSORS).read_bytes()


def test_auto_takes_the_most_linear(linearize: Linearized, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [{"ell": number, "ls_delta": value} for number, value in enumerate([0.1, 0.9, None, 0.2])]
    path = tmp_path / "linearity.json"
    path.write_text(json.dumps({"model": str(tmp_path / "model"), "blocks": 4, "scores": scores}))
    assert linearize("--blocks", "auto:2", "--from", path, "--json") == 0
    assert answer_of(capsys)["replaced_blocks"] == [1, 2]


def test_auto_scores_the_blocks_itself(linearize: Linearized, capsys: pytest.CaptureFixture[str]) -> None:
    assert linearize() == 0
    shown = capsys.readouterr().out
    assert "the map explains" in shown
    assert "replaced" in shown


@pytest.mark.parametrize(
    ("blocks", "message"),
    [("auto:4", "give 1 to 3"), ("0-3", "at least one must stay"), ("7", "has blocks 0 to 3"), ("x", "give auto:K")],
)
def test_blocks_that_cannot_be(
    blocks: str, message: str, linearize: Linearized, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert linearize("--blocks", blocks) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_neighbours_are_one_run() -> None:
    assert as_runs([5, 2, 3, 0]) == [(0, 1), (2, 4), (5, 6)]
