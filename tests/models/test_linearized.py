"""A linearized folder as the model of the verbs: evaluated, trained, generated from; refused where it is no model."""

import json
from pathlib import Path

import pytest
import torch

from loralab.cli.main import main
from loralab.errors import AdapterFileError, LoralabError, ModelLoadError
from loralab.formats.load import load
from loralab.models.linearized import load_linearized, write_linearized
from loralab.models.load import load_model, read_config
from loralab.models.locate import locate
from loralab.models.surgery.affine import REMAINING, TENSORS, AffineMap
from loralab.models.surgery.blocks import blocks_of
from tiny import write_llama, write_pairs


@pytest.fixture
def linearized(tmp_path: Path) -> Path:
    """Four blocks, of which one map stands for blocks 1 and 2."""
    source = load_model(str(write_llama(tmp_path / "base", num_hidden_layers=4)), dtype="float32")
    generator = torch.Generator().manual_seed(1)
    affine = AffineMap(0.1 * torch.randn(32, 32, generator=generator), 0.1 * torch.randn(32, generator=generator))
    folder = tmp_path / "linearized"
    folder.mkdir()
    write_linearized(source, {(1, 3): affine}, folder)
    return folder


def trained(model: Path, out: Path, *more: object) -> Path:
    task = ["--task", "jsonl", "--data", write_pairs(out.parent / "pairs")]
    sizes = ["--steps", 4, "--batch-size", 8, "--lr", 0.02, "--eval-limit", 0, "--save-every", 0]
    assert main(["train", *map(str, ["--model", model, *task, *sizes, "--out", out, "--dtype", "float32", *more])]) == 0
    return out


def test_it_is_a_model_like_any_other(linearized: Path) -> None:
    loaded, known = load_model(str(linearized), dtype="float32"), load_linearized(linearized, dtype="float32")
    assert [type(block).__name__ for block in blocks_of(loaded.model)][1] == "AffineBlock"
    assert len(blocks_of(loaded.model)) == loaded.model.config.num_hidden_layers == 3
    assert loaded.name == loaded.model.name_or_path == loaded.model.config.name_or_path == str(linearized)
    assert "affine maps stand for blocks 1-2 of" in loaded.notes[-1]
    ids = torch.arange(2, 20)[None]
    assert torch.equal(loaded.model(input_ids=ids).logits, known.model(input_ids=ids).logits)
    rest = load_model(str(linearized / REMAINING), dtype="float32")
    assert not torch.equal(loaded.model(input_ids=ids).logits, rest.model(input_ids=ids).logits)


@pytest.mark.parametrize("base", [[], ["--quantize", "nf4"]], ids=["float", "nf4"])
def test_trained_evaluated_and_generated_from(
    linearized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], base: list[str]
) -> None:
    adapter = trained(linearized, tmp_path / "adapter", "--targets", "mlp", *base)
    written = json.loads((adapter / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(linearized)
    capsys.readouterr()
    flags = ["--model", linearized, "--task", "jsonl", "--data", tmp_path / "pairs", "--split", "test", "--json"]
    losses = []
    for more in ([], ["--adapter", adapter]):
        assert main(["eval", *map(str, [*flags, *more, "--dtype", "float32"])]) == 0
        losses.append(json.loads(capsys.readouterr().out.splitlines()[-1])["loss"])
    assert losses[1] < losses[0]
    asked = ["--model", linearized, "--adapter", adapter, "--prompt", "say a:", "--max-new-tokens", 3, "--json"]
    assert main(["generate", *map(str, asked)]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["completions"]) == 1


def test_its_adapters_and_those_of_the_whole_model_are_kept_apart(linearized: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    of_both = {
        folder: trained(folder, tmp_path / f"of-{folder.name}", "--targets", "mlp") for folder in (base, linearized)
    }
    with pytest.raises(AdapterFileError, match="the base that the adapter was trained on"):
        load(load_model(str(base), dtype="float32").model, of_both[linearized])
    with pytest.raises(LoralabError):
        load(load_model(str(linearized), dtype="float32").model, of_both[base])
    assert load(load_linearized(linearized, dtype="float32").model, of_both[linearized]).matched


def test_where_it_is_no_model(linearized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for refuse in (locate, read_config):
        with pytest.raises(ModelLoadError, match=r"merging into a Hugging Face folder, GGUF .* do not work"):
            refuse(str(linearized))
    adapter = trained(linearized, tmp_path / "adapter", "--targets", "mlp")
    capsys.readouterr()
    asked = [
        ["plan", "--model", linearized, "--targets", "q"],
        ["merge", "--model", linearized, "--adapter", adapter, "--out", tmp_path / "merged"],
        ["convert", adapter, tmp_path / "adapter.gguf", "--to", "gguf"],
        ["analyse", "linearity", "--model", linearized, "--out", tmp_path / "linearity"],
        ["analyse", "linearize", "--model", linearized, "--out", tmp_path / "again"],
    ]
    for words in asked:
        assert main([*map(str, words)]) == 2, words
        assert "is a linearized model, some of whose blocks are affine maps" in capsys.readouterr().err, words
    assert not (tmp_path / "merged").exists()
    assert not (tmp_path / "adapter.gguf").exists()


def test_maps_that_do_not_fit(linearized: Path) -> None:
    (linearized / TENSORS).write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="do not fit together"):
        load_model(str(linearized))
