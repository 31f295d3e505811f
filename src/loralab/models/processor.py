"""The image processor of a model: one for a checkpoint that brings none, and whether model and processor fit; and the
files of it, or of a tokenizer, written into a folder.

It reads no image, and knows nothing of tasks and adapters.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from loralab.errors import ModelLoadError
from loralab.extras import transformers
from loralab.files.drafts import draft_folder, remove
from loralab.models.processor_names import IMAGE_FILES
from loralab.models.quiet import quiet_transformers

MIDDLE = 0.5
"""Mean and standard deviation that send pixels from 0…1 to −1…1, as ViT was pretrained."""

LARGE_ENOUGH = 224
"""The side of the trial image where the model does not say one."""


def has_processor(source: str) -> bool:
    """Whether a checkpoint describes its image processor; a Hub id, of which nothing is known here, is said to."""
    return not Path(source).is_dir() or any((Path(source) / file).is_file() for file in IMAGE_FILES)


def default_processor(
    name: str, config: "transformers.PreTrainedConfig"
) -> "tuple[transformers.BaseImageProcessor, list[str]]":
    """Images resized to the size that config.json says, pixels from −1 to 1; and a sentence that says so.

    By Pillow: the class without that in its name needs torchvision.

    Raises `ModelLoadError` where it says none.
    """
    side = _vision(config, "image_size", None)
    if side is None:
        raise ModelLoadError(
            f"model {name!r} has no {IMAGE_FILES[0]}, and its config.json has no image_size to make one from; "
            "save the model's image processor in its folder"
        )
    height, width = _height_and_width(side)
    middle = [MIDDLE] * _vision(config, "num_channels", 3)
    size = {"height": height, "width": width}
    processor = transformers.ViTImageProcessorPil(size=size, image_mean=middle, image_std=middle)
    return processor, [f"no {IMAGE_FILES[0]}: images are resized to {height}×{width}, their pixels scaled to −1…1"]


@torch.no_grad()
def check_processor(
    name: str, model: "transformers.PreTrainedModel", processor: "transformers.BaseImageProcessor"
) -> None:
    """Run the model once on a blank image: grey if the processor normalises one channel, else of three.

    Raises `ModelLoadError` unless the processor makes what the model takes.
    """
    mean = getattr(processor, "image_mean", None)
    channels = 1 if isinstance(mean, list | tuple) and len(mean) == 1 else 3
    side = _vision(model.config, "image_size", LARGE_ENOUGH)
    blank_CHW = np.zeros((channels, *_height_and_width(side)), np.uint8)
    try:
        pixels = processor([blank_CHW], input_data_format="channels_first", return_tensors="pt")["pixel_values"]
        model(pixel_values=pixels.to(model.device, model.dtype))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelLoadError(
            f"model {name!r}: its image processor does not fit it: {error}; correct the size and the number of "
            f"channels in {IMAGE_FILES[0]}, or in config.json"
        ) from error


def _vision(config: "transformers.PreTrainedConfig", key: str, default: Any) -> Any:
    """A setting of the part that looks at images: of the whole config, or of that of CLIP's image tower."""
    value = getattr(getattr(config, "vision_config", config), key, None)
    return default if value is None else value


def _height_and_width(side: Any) -> tuple[int, int]:
    return (int(side[0]), int(side[1])) if isinstance(side, list | tuple) else (int(side), int(side))


def write_processor(
    processor: "transformers.PreTrainedTokenizerBase | transformers.BaseImageProcessor", folder: Path
) -> set[str]:
    """Write a tokenizer with its chat template, or an image processor, into a folder that is not in its place yet; the
    names of its files. Raises OSError where writing fails.
    """
    if isinstance(processor, transformers.PreTrainedTokenizerBase) and processor.is_fast:
        processor.backend_tokenizer.no_truncation()  # what the last call set, which no text is to be read with later
        processor.backend_tokenizer.no_padding()
    with draft_folder(folder, "processor") as draft, quiet_transformers():
        processor.save_pretrained(draft)
        written = {each.name for each in draft.iterdir()}
        for name in written:
            remove(folder / name)
            (draft / name).rename(folder / name)
    return written
