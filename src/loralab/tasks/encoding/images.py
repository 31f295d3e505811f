"""Images as a model's pixels: what stands for one while it waits, and the tensor of a batch of them.

An image is decoded anew for every batch, so memory holds no more pixels than one batch has. It knows nothing of models
beyond the processor that each comes with.

Shapes: B images of a batch, C channels, H rows and W columns of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import BaseImageProcessor

from loralab.errors import DataError
from loralab.tasks.example import AnyExample, ImageExample
from loralab.tasks.images.file import read_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class EncodedImage:
    """One image: where it is, what turns it into pixels, and its class."""

    path: Path
    labels: int
    processor: BaseImageProcessor
    targets: int = 1
    """The number of labels that the loss is taken on."""
    tokens: int = 1
    """An image counts as one, whatever a model cuts it into: tokens a second are images a second."""
    weight: float = 1.0
    """What it counts in the training loss."""


def encode_images(examples: Sequence[AnyExample], processor: BaseImageProcessor) -> list[EncodedImage]:
    """Every example, in order; nothing is decoded yet. Raises `DataError` for one that is not an image."""
    images = [each for each in examples if isinstance(each, ImageExample)]
    if len(images) < len(examples):
        raise DataError("this model looks at images; the data hold texts")
    return [EncodedImage(each.path, each.label, processor) for each in images]


def pixel_values(encoded: Sequence[EncodedImage]) -> Tensor:
    """The pixels [B, C, H, W] that the model's processor makes of the images.

    Raises `DataError` for an image that cannot be read, and where the processor leaves images of different sizes.
    """
    processor = encoded[0].processor
    images = [_as_expected(read_image(each.path), processor) for each in encoded]
    pixels_CHW = [torch.as_tensor(each) for each in processor(images)["pixel_values"]]
    shapes = {tuple(each.shape) for each in pixels_CHW}
    if len(shapes) > 1:
        raise DataError(
            f"{encoded[0].path} and others come out of the model's image processor in different sizes "
            f"({', '.join(map(str, sorted(shapes)))}); give them one size, or set height and width in the model's "
            "preprocessor_config.json"
        )
    return torch.stack(pixels_CHW)


def _as_expected(image: "Image", processor: BaseImageProcessor) -> "Image":
    """Grey for a processor that normalises one channel; else red, green and blue."""
    mean = getattr(processor, "image_mean", None)
    return image.convert("L") if isinstance(mean, list | tuple) and len(mean) == 1 else image
