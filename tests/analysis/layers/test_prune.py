"""Pruning by the command line: what is written, reopened and measured, healed or refused."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from loralab.analysis.layers.prune import deepest_start
from loralab.cli.main import main
from loralab.errors import SpecError
from tiny import write_bert, write_llama, write_pairs

Pruned = Callable[..., int]


def planted(folder: Path) -> Path:
    """Six blocks of which 2 and 3 add nothing."""
    write_llama(folder, num_hidden_layers=6)
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for number in (2, 3):
            model.model.layers[number].self_attn.o_proj.weight.zero_()
            model.model.layers[number].mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def prune(tmp_path: Path) -> Pruned:
    """`loralab analyse prune` on the planted model, into tmp_path/out."""
    model, text = planted(tmp_path / "model"), tmp_path / "text.txt"
    text.write_text("".join(f"{number * 7919 % 1000} is a number. " for number in range(2000)))
    task = ["--task", "jsonl", "--task-data", write_pairs(tmp_path / "pairs"), "--limit", 2, "--max-new-tokens", 2]
    sizes = ["--samples", 4, "--max-len", 16, "--pieces", 2]

    def run(*more: object, model: Path = model) -> int:
        given = ["--model", model, "--data", text, *task, *sizes, "--out", tmp_path / "out", *more]
        return main(["analyse", "prune", *map(str, given)])

    return run


def answer_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_the_blocks_that_do_nothing_go(prune: Pruned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune("--n", 2, "--json", "--dtype", "float32") == 0
    answer = answer_of(capsys)
    assert answer["removed"] == [2, 3]
    assert answer["distance"] == pytest.approx(0, abs=1e-7)
    assert answer["after"] == answer["before"]
    assert answer["parameters_before"] > answer["parameters_after"]
    assert "rouge_l" in answer["after"]["metrics"]
    assert answer["heal"].startswith(f"loralab train --model {tmp_path / 'out'} ")
    whole, pruned = (LlamaForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("model", "out"))
    ids = torch.arange(3, 23)[None]
    assert torch.equal(whole(input_ids=ids).logits, pruned(input_ids=ids).logits)
    written = json.loads((tmp_path / "out" / "prune.json").read_text())
    assert written == {name: value for name, value in answer.items() if name != "files"}
    assert (tmp_path / "out" / "prune.png").is_file()


def test_deepest_keeps_the_last(prune: Pruned, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune("--n", 2, "--strategy", "deepest", "--task", "none", "--json") == 0
    answer = answer_of(capsys)
    assert (answer["removed"], answer["distance"]) == ([3, 4], None)
    assert answer["after"]["metrics"] == {}
    assert deepest_start(6, 4) == 1
    with pytest.raises(SpecError, match="0 to 4 of them"):
        deepest_start(6, 5)


def test_from_a_file_of_distances(prune: Pruned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distances = [[abs(i - j) / 10 for i in range(7)] for j in range(7)]
    distances[4][6] = 0.0
    content = {"model": str(tmp_path / "model"), "blocks": 6, "D": distances, "std": distances, "samples": 1}
    (tmp_path / "angular.json").write_text(json.dumps(content))
    assert prune("--n", 2, "--from", tmp_path / "angular.json", "--task", "none", "--json") == 0
    assert answer_of(capsys)["removed"] == [4, 5]


@pytest.mark.parametrize("base", [[], ["--quantize", "nf4"]], ids=["float", "nf4"])
def test_healed_is_measured_on_the_same_folder(
    prune: Pruned, tmp_path: Path, capsys: pytest.CaptureFixture[str], base: list[str]
) -> None:
    out, adapter = tmp_path / "out", tmp_path / "healing"
    assert prune("--n", 3, "--dtype", "float32") == 0
    shown = capsys.readouterr().out
    heal = shlex.split(shown.split("heal it:")[1].split("then give")[0].replace("\\\n", " "))
    assert heal[:4] == ["loralab", "train", "--model", str(out)]
    assert heal[4:8] == ["--task", "jsonl", "--data", str(tmp_path / "pairs")], "the task that it is measured on"
    assert max(len(line) for line in shown.splitlines() if "/" not in line) <= 80
    before = (out / "model.safetensors").read_bytes()
    flags = ["--model", out, "--task", "jsonl", "--data", tmp_path / "pairs", "--targets", "mlp", "--out", adapter]
    more = ["--steps", 3, "--lr", 0.02, "--batch-size", 8, "--eval-limit", 0, "--save-every", 0]
    assert main(["train", *map(str, [*flags, *more, *base])]) == 0
    capsys.readouterr()
    assert prune("--n", 3, "--dtype", "float32", "--healed", adapter, "--json") == 0
    answer = answer_of(capsys)
    assert answer["healed"]["task_loss"] < answer["after"]["task_loss"]
    assert (out / "model.safetensors").read_bytes() == before
    assert prune("--n", 2, "--healed", adapter) == 2
    assert "without blocks" in capsys.readouterr().err


def test_no_blocks_is_the_model(prune: Pruned, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune("--n", 0, "--task", "none", "--json") == 0
    answer = answer_of(capsys)
    assert answer["removed"] == []
    assert answer["after"] == answer["before"]


def test_what_is_refused(prune: Pruned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune("--n", 6) == 2
    assert "the model has 6 blocks: give 0 to 5" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert prune("--n", 1) == 2
    assert "exists already" in capsys.readouterr().err
    assert prune("--n", 1, model=write_bert(tmp_path / "bert")) == 2
