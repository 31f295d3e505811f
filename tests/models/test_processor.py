"""The image processor that a checkpoint lacks, and whether one fits its model."""

from pathlib import Path

import pytest
from transformers import (
    CLIPVisionConfig,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from loralab.errors import ModelLoadError
from loralab.models.processor import check_processor, default_processor, has_processor

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def test_where_a_processor_is_described(tmp_path: Path) -> None:
    assert not has_processor(str(tmp_path))
    (tmp_path / "preprocessor_config.json").touch()
    assert has_processor(str(tmp_path))
    assert has_processor("someone/on-the-hub")


def test_the_plain_processor_is_made_of_the_config() -> None:
    wide, notes = default_processor("m", ViTConfig(image_size=(8, 12), num_channels=1))
    assert dict(wide.size) == {"height": 8, "width": 12}
    assert (tuple(wide.image_mean), tuple(wide.image_std)) == ((0.5,), (0.5,))
    assert notes == ["no preprocessor_config.json: images are resized to 8×12, their pixels scaled to −1…1"]
    tower, _ = default_processor("m", SiglipConfig(vision_config={"image_size": 20}))
    assert dict(tower.size) == {"height": 20, "width": 20}
    assert dict(default_processor("m", CLIPVisionConfig(image_size=24))[0].size)["width"] == 24


def test_a_model_of_any_size_needs_a_processor_of_its_own() -> None:
    with pytest.raises(ModelLoadError, match=r"no preprocessor_config\.json, and its config\.json has no image_size"):
        default_processor("m", ResNetConfig())


def test_a_processor_fits_in_size_and_channels() -> None:
    model = ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4)).eval()
    check_processor("m", model, ViTImageProcessorPil(size={"height": 8, "width": 8}))
    check_processor("m", model, ViTImageProcessorPil(do_resize=False))
    grey = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    for wrong in (ViTImageProcessorPil(size={"height": 4, "width": 8}), grey):
        with pytest.raises(ModelLoadError, match="model 'm': its image processor does not fit it: "):
            check_processor("m", model, wrong)


def test_a_grey_model_and_a_convolutional_one() -> None:
    grey = ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4, num_channels=1))
    check_processor("m", grey, default_processor("m", grey.config)[0])
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    check_processor("m", ResNetForImageClassification(config).eval().bfloat16(), ViTImageProcessorPil())
