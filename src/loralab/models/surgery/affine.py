"""Affine maps that stand for blocks, read from a folder and put into the model that lacks these blocks.

`linearized` says what the folder holds and writes it. This knows nothing of how a model is loaded, so that loading can
use it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from loralab.errors import ModelLoadError
from loralab.models.locate import AFFINE_PLACES
from loralab.models.surgery.blocks import AffineBlock, blocks_of, insert_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REMAINING, TENSORS = "remaining", "affine_blocks.safetensors"


@dataclass(frozen=True)
class AffineMap:
    """What stands for a run of blocks: y = h + h·weightᵀ + bias, float32 [D, D] and [D]."""

    weight_DD: Tensor
    bias_D: Tensor


def put_maps(model: "PreTrainedModel", folder: Path) -> str:
    """Put the maps of a linearized folder into its `remaining` model; returns a sentence for the log.

    Raises ModelLoadError where the folder's parts do not fit together.
    """
    try:
        content = json.loads((folder / AFFINE_PLACES).read_text(encoding="utf-8"))
        insert_affine(model, content, load_file(folder / TENSORS, device=str(model.device)))
        runs = ", ".join(_in_words(*each["replaces"]) for each in content["blocks"])
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise ModelLoadError(
            f"{folder}: {AFFINE_PLACES} and {TENSORS} do not fit together: {error}; write it again"
        ) from error
    return f"affine maps stand for blocks {runs} of the model it was made from; the blocks after them are renumbered"


def _in_words(start: int, end: int) -> str:
    return str(start) if end == start + 1 else f"{start}-{end - 1}"


def insert_affine(model: "PreTrainedModel", content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put the maps into the model that lacks their blocks. Raises ModelLoadError for shapes that do not fit."""
    width = model.config.get_text_config().hidden_size
    expected = {f"{each['place']}.{name}" for each in content["blocks"] for name in ("weight", "bias")}
    if set(tensors) != expected:
        raise ModelLoadError(f"tensors {sorted(tensors)} instead of {sorted(expected)}: make the folder again")
    misshapen = [name for name, each in tensors.items() if {*each.shape} != {width} or not torch.isfinite(each).all()]
    if misshapen:
        raise ModelLoadError(f"{', '.join(misshapen)} are not finite maps of a stream {width} wide")
    inserted = {
        each["place"]: affine_block(
            AffineMap(tensors[f"{each['place']}.weight"], tensors[f"{each['place']}.bias"]), content["outputs"], model
        )
        for each in content["blocks"]
    }
    insert_blocks(model, inserted, {each["place"]: each["layer_type"] for each in content["blocks"]})


def affine_block(affine: AffineMap, outputs: int, model: "PreTrainedModel") -> AffineBlock:
    """The module, in the model's dtype and on its device."""
    place: dict[str, Any] = {"dtype": model.dtype, "device": model.device}
    return AffineBlock(affine.weight_DD.to(**place), affine.bias_D.to(**place), outputs).eval()


@torch.no_grad()
def block_outputs(model: "PreTrainedModel") -> int:
    """What the model's blocks return: 0 for a tensor, else the length of a tuple. Found out by running one token."""
    seen: list[int] = []
    handle = blocks_of(model)[0].register_forward_hook(
        lambda _, __, output: seen.append(len(output) if isinstance(output, tuple) else 0)
    )
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        handle.remove()
    return seen[0]
