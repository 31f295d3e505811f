"""Images from a folder of PNGs to an adapter on disk, and back through every verb."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import ViTForImageClassification

import loralab as ll
from loralab.evaluation.evaluate import Evaluation
from loralab.models.load import load_model
from loralab.tasks.table import open_task
from tiny import write_images, write_vit

Configure = Callable[..., ll.TrainConfig]
CLASSES = ("blue", "red")


@pytest.fixture
def looking(tmp_path: Path) -> Configure:
    """A configuration of a run on reddish and bluish images."""
    model, data = write_vit(tmp_path / "vit", num_labels=3), write_images(tmp_path / "data")

    def configure(**changes: Any) -> ll.TrainConfig:
        defaults = {
            "model": str(model), "task": "images", "data": str(data), "out": str(tmp_path / "run"), "rank": 2,
            "batch_size": 8, "lr": 3e-2, "steps": 8, "dtype": "float32", "device": "cpu",
        }  # fmt: skip
        return ll.TrainConfig(**defaults | changes)

    return configure


def evaluated(config: ll.TrainConfig) -> Evaluation:
    """The test split under the saved adapter, on a base loaded anew."""
    loaded = load_model(config.model, kind="image-classification", labels=CLASSES, dtype="float32", device="cpu")
    ll.load(loaded.model, config.out)
    task = open_task("images", config.data, labels=CLASSES)
    return ll.evaluate(loaded.model, loaded.processor, task, "test")


def test_a_run_learns_and_its_adapter_computes_the_same_again(looking: Configure) -> None:
    config = looking()
    result = ll.train(config)
    assert result.metrics["accuracy"] > 90
    assert (result.trainable_params, result.head_params) == (2 * 2 * 2 * (32 + 32), 32 * 2 + 2)
    assert result.tokens == 8 * 8  # an image is one
    again = evaluated(config)
    assert again.loss == pytest.approx(result.metrics["loss"], abs=1e-5)
    assert set(again.outputs) == set(CLASSES)


def test_the_record_says_what_was_looked_at(looking: Configure) -> None:
    config = looking(steps=1, eval_limit=0)
    ll.train(config)
    record = json.loads((Path(config.out) / "run.json").read_text())
    assert (record["kind"], record["model_kind"], record["labels"]) == (
        "classification",
        "image-classification",
        list(CLASSES),
    )
    assert any("no preprocessor_config.json" in note for note in record["notes"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_reads_the_adapter(looking: Configure) -> None:
    config = looking()
    ll.train(config)
    own = load_model(config.model, kind="image-classification", labels=CLASSES, dtype="float32", device="cpu")
    ll.load(own.model, config.out)
    base = ViTForImageClassification.from_pretrained(config.model, num_labels=2, ignore_mismatched_sizes=True)
    theirs = PeftModel.from_pretrained(base, config.out).eval()
    pixels = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixel_values=pixels).logits, own.model(pixels).logits)


def test_a_damaged_image_stops_a_run_before_it_begins(looking: Configure) -> None:
    config = looking()
    (Path(config.data) / "test" / "red" / "12.png").write_text("no image")
    with pytest.raises(ll.DataError, match=r"test/red/12\.png is not an image"):
        ll.train(config)
    assert not Path(config.out).exists()
