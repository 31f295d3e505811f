"""Angular distances: the identities of the definition, planted blocks that do nothing, and the files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loralab.analysis.layers.angular import AngularDistances, angles, angular_distances, block_sizes, read_angular
from loralab.analysis.layers.texts import TokenBatch
from loralab.cli.main import main
from loralab.errors import DataError, NotFoundError, NumericsError, SpecError
from loralab.models.surgery.blocks import keep_blocks, removed_run
from small_models import llama
from tiny import write_bert, write_llama, write_t5

IDS = torch.arange(3, 63).view(4, 15)
BATCH = TokenBatch(IDS, torch.ones_like(IDS, dtype=torch.bool))


def silence(model: nn.Module, *numbers: int) -> None:
    """Let these blocks add nothing to the stream."""
    with torch.no_grad():
        for number in numbers:
            block = model.model.layers[number]  # type: ignore[union-attr,index]
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()


def test_equal_orthogonal_and_opposite() -> None:
    one, other = torch.randn(2, 8)
    other -= one * (one @ other) / (one @ one)
    found = angles(torch.stack([one, 3 * one, other, -one])[None])[0]
    assert found[0].tolist() == pytest.approx([0, 0, 0.5, 1], abs=1e-7)


def test_lengths_do_not_matter() -> None:
    states, lengths = torch.randn(3, 5, 8), torch.rand(3, 5, 1) * 1000 + 1e-3
    torch.testing.assert_close(angles(states), angles(states * lengths), atol=1e-6, rtol=0)


def test_the_triangle_inequality() -> None:
    found = angles(torch.randn(20, 6, 4))
    around = found[:, :, :, None] + found[:, None, :, :]
    assert bool((found[:, :, None, :] <= around + 1e-9).all())


def test_a_state_of_zero() -> None:
    with pytest.raises(NumericsError, match="zero"):
        angles(torch.zeros(1, 2, 3))


@pytest.mark.parametrize("tokens", ["last", "mean", "all"])
def test_blocks_that_do_nothing_are_found_and_can_go(tokens: Any) -> None:
    model = llama(num_hidden_layers=6).eval()
    silence(model, 2, 3, 4)
    found = angular_distances(model, [BATCH], tokens)
    assert found.best(3) == 2
    assert found.distance(2, 3) == pytest.approx(0, abs=1e-7)
    assert found.distance(1, 3) > 1e-4
    assert found.samples == (60 if tokens == "all" else 4)
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        keep_blocks(model, removed_run(6, 3, found.best(3)))
        assert torch.equal(model(input_ids=IDS).logits, before)


def test_batches_do_not_matter() -> None:
    model = llama().eval()
    parts = [TokenBatch(IDS[i : i + 1], BATCH.mask_BT[i : i + 1]) for i in range(4)]
    whole, apart = angular_distances(model, [BATCH]), angular_distances(model, parts)
    torch.testing.assert_close(whole.mean_LL, apart.mean_LL, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole.std_LL, apart.std_LL, atol=1e-5, rtol=0)
    assert float(whole.std_LL[0, 3]) > 0


def test_the_definition_on_a_model() -> None:
    model = llama().eval()
    with torch.no_grad():
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    cosine = torch.cosine_similarity(states[0][:, -1].double(), states[2][:, -1].double())
    expected = float(torch.arccos(cosine).mean() / torch.pi)
    assert angular_distances(model, [BATCH]).distance(0, 2) == pytest.approx(expected, abs=1e-6)


def test_block_sizes_as_written() -> None:
    assert block_sizes("1:L-1", 5) == [1, 2, 3, 4]
    assert block_sizes("2:L", 4) == [2, 3, 4]
    assert block_sizes("1,3", 5) == [1, 3]
    for wrong in ("0:3", "1:9", "x", "", "3:1", "1:2:3"):
        with pytest.raises(SpecError, match="give numbers of 1 to 5"):
            block_sizes(wrong, 5)
    with pytest.raises(SpecError, match="the model has 2"):
        AngularDistances(torch.zeros(3, 3), torch.zeros(3, 3), 1).best(3)


def text(path: Path) -> Path:
    path.write_text("".join(f"{number * 7919 % 1000} is a number. " for number in range(4000)))
    return path


def test_the_verb_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = write_llama(tmp_path / "model", num_hidden_layers=4), tmp_path / "out"
    flags = [
        "--model",
        model,
        "--data",
        text(tmp_path / "a.txt"),
        "--samples",
        6,
        "--max-len",
        20,
        "--out",
        out,
        "--csv",
    ]
    assert main(["analyse", "angular", *map(str, flags), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    written = json.loads((out / "angular.json").read_text())
    assert (written["blocks"], written["samples"], len(written["D"])) == (4, 6, 5)
    assert [each["n"] for each in answer["best"]] == [1, 2, 3]
    assert written["best"] == answer["best"]
    assert (out / "angular.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "angular.csv").read_text().splitlines()) == 1 + 4 + 3 + 2 + 1
    assert main(["analyse", "angular", *map(str, flags), "--overwrite"]) == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines() if not line.startswith("/"))


def test_what_is_written_is_read_for_its_own_model(tmp_path: Path) -> None:
    path = tmp_path / "angular.json"
    path.write_text(
        json.dumps({"model": "m", "blocks": 1, "D": [[0, 0.5], [0.5, 0]], "std": [[0, 0]] * 2, "samples": 3})
    )
    assert read_angular(path, "m", 1).distance(0, 1) == 0.5
    with pytest.raises(DataError, match="is of m with 1 blocks; here the model is other with 1"):
        read_angular(path, "other", 1)
    path.write_text("{}")
    with pytest.raises(DataError, match="has no model, blocks, D, std, samples"):
        read_angular(path, "m", 1)
    with pytest.raises(NotFoundError):
        read_angular(tmp_path / "none.json", "m", 1)


@pytest.mark.parametrize(("write", "message"), [(write_bert, "post-norm"), (write_t5, "encoder-decoder")])
def test_an_encoder_is_warned_of_and_a_pair_refused(
    write: Callable[[Path], Path], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", write(tmp_path / "model"), "--data", text(tmp_path / "a.txt"), "--samples", 2, "--max-len", 8]
    status = main(["analyse", "angular", *map(str, flags), "--out", str(tmp_path / "out")])
    assert status == (0 if write is write_bert else 2)
    assert message in capsys.readouterr().err
