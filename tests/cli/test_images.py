"""The verbs on a model that looks at images: its adapter is trained, measured, merged, and its predictions scored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import ViTImageProcessorPil

from tiny import write_images, write_vit

Ask = Callable[..., dict[str, Any]]


def test_the_verbs_on_images(tmp_path: Path, ask: Ask) -> None:
    data, model, out = write_images(tmp_path / "data"), write_vit(tmp_path / "vit"), tmp_path / "adapter"
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(model)
    source = ["--task", "images", "--data", data]
    trained = ask("train", "--model", model, *source, "--out", out, "--rank", 2, "--steps", 8, "--lr", 0.03)
    measured = ask("eval", "--model", model, "--adapter", out, *source, "--predictions", tmp_path / "said.txt")
    assert trained["metrics"]["accuracy"] == measured["metrics"]["accuracy"] > 90
    scored = ask("score", "--task", "images", "--predictions", tmp_path / "said.txt", "--references", data)
    assert scored["metrics"] == measured["metrics"]
    merged = ask("merge", "--model", model, "--adapter", out, "--out", tmp_path / "merged")
    assert merged["argmax_agreement"] == 1
    alone = ask("eval", "--model", tmp_path / "merged", *source)
    assert alone["metrics"] == measured["metrics"]
