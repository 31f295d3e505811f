"""Every method through the whole of a run: it learns, resumes bit for bit, is counted, and comes back."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

import loralab as ll
from loralab.methods.table import METHOD_NAMES
from loralab.training.folder import RunFolder
from tiny import write_lines
from training.conftest import Run

GENERATING = ["full", "top2", "prefix-embed", "prefix-layer", "adapter-h", "adapter-l", "adapter-p"]
COMBINED = ["lora+prefix-embed", "lora+prefix-layer"]
SMALL = {"size": 8, "prefix": 2, "infix": 2}


@pytest.mark.parametrize("method", [*GENERATING, *COMBINED])
def test_a_language_model_learns(configured: Run, method: str) -> None:
    result = ll.train(configured(method=method, steps=40, lr=1e-2, **SMALL))
    assert result.last_loss is not None
    assert result.first_loss is not None
    assert result.last_loss < result.first_loss - 0.2
    assert result.metrics["loss"] < result.first_loss


@pytest.mark.parametrize("method", ["full", "lora+prefix-embed"])
def test_a_classifier_learns(classifying: Run, method: str) -> None:
    result = ll.train(classifying(method=method, epochs=8, lr=3e-3 if method == "full" else 2e-2, **SMALL))
    assert result.metrics["accuracy"] > 80


@pytest.mark.parametrize("method", [*METHOD_NAMES, *COMBINED])
def test_a_head_is_counted_apart(classifying: Run, method: str) -> None:
    result = ll.train(classifying(method=method, epochs=None, steps=2, eval_limit=0, **SMALL))
    assert result.head_params == 32 * 2 + 2
    assert 0 < result.trainable_params <= result.total_params


@pytest.mark.parametrize("method", ["full", "prefix-layer", "adapter-l"])
def test_half_and_half_is_the_whole_bit_for_bit(configured: Run, method: str, tmp_path: Path) -> None:
    whole = ll.train(configured("whole", method=method, steps=6, **SMALL))
    config = configured("halves", method=method, steps=6, save_every=3, **SMALL)
    ll.train(config)
    checkpoints = RunFolder(Path(config.out)).checkpoints
    (checkpoints / "step-00000006.safetensors").unlink()
    ll.train(replace(config, resume=True))
    one, other = (load_file(Path(path) / "adapter_model.safetensors") for path in (whole.adapter, config.out))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_a_method_that_the_model_cannot_take_is_an_error_before_anything_is_written(configured: Run) -> None:
    config = configured(method="bitfit")
    with pytest.raises(ll.TargetError, match="has none"):
        ll.train(config)
    assert not Path(config.out).exists()


def test_texts_as_long_as_the_context_make_room_for_a_prefix(configured: Run, tmp_path: Path) -> None:
    lines = [{"prompt": "x" * 400, "completion": "abc"} for _ in range(8)]
    data = tmp_path / "long"
    for split in ("train", "validation"):
        write_lines(data / f"{split}.jsonl", lines)
    result = ll.train(configured(method="prefix-layer", data=str(data), steps=2, eval_limit=4, **SMALL))
    assert result.metrics["loss"] > 0
