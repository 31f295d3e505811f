"""A model some of whose blocks are affine maps, on disk: no stock architecture has such a block, and none is pretended.

    FOLDER/remaining/                  the model without those blocks: a Hugging Face folder like any other
    FOLDER/affine_blocks.safetensors   PLACE.weight [D, D] and PLACE.bias [D] in float32: y = h + h·weightᵀ + bias
    FOLDER/affine_blocks.json          where each goes, and how many blocks it stands for

FOLDER itself has no config.json: what does not know of the maps refuses it, instead of loading another model.
`load_linearized` reads it; `transformers` reads `remaining`, which is the same model with the blocks dropped.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from loralab.errors import ModelLoadError, NotFoundError
from loralab.models.load import LoadedModel, load_model
from loralab.models.model_folder import write_proved
from loralab.models.surgery import AffineBlock, Run, blocks_of, insert_blocks, keep_blocks, layer_type

REMAINING, TENSORS, PLACES = "remaining", "affine_blocks.safetensors", "affine_blocks.json"


@dataclass(frozen=True)
class AffineMap:
    """What stands for a run of blocks: y = h + h·weightᵀ + bias, float32 [D, D] and [D]."""

    weight_DD: Tensor
    bias_D: Tensor


def write_linearized(loaded: LoadedModel, maps: Mapping[Run, AffineMap], folder: Path) -> None:
    """Fill an empty folder from the whole model, which loses those blocks. Raises what writing and proving raise."""
    total, outputs = len(blocks_of(loaded.model)), block_outputs(loaded)
    runs = sorted(maps)
    gone = {number for start, end in runs for number in range(start, end)}
    places, shift = {}, 0
    for start, end in runs:
        places[start - shift] = (start, end)
        shift += end - start - 1
    content = {
        "about": "affine maps in the place of blocks; load with loralab.models.linearized.load_linearized",
        "outputs": outputs,
        "blocks": [
            {"place": place, "replaces": list(run), "layer_type": layer_type(loaded.model, run[0])}
            for place, run in places.items()
        ],
    }
    keep_blocks(loaded.model, [number for number in range(total) if number not in gone])
    (folder / REMAINING).mkdir()
    write_proved(loaded, folder / REMAINING)
    tensors = {f"{place}.weight": maps[run].weight_DD.float().contiguous() for place, run in places.items()}
    tensors |= {f"{place}.bias": maps[run].bias_D.float().contiguous() for place, run in places.items()}
    save_file(tensors, folder / TENSORS)
    (folder / PLACES).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_linearized(folder: str | Path, *, dtype: str = "auto", device: str = "auto") -> LoadedModel:
    """The model of a folder that `write_linearized` filled, its affine blocks in place and in the model's dtype.

    Raises NotFoundError for a folder that is none, and ModelLoadError where its parts do not fit together.
    """
    place = Path(folder)
    if not (place / PLACES).is_file():
        raise NotFoundError(
            f"{place} was to be a linearized model, but it has no {PLACES}; loralab analyse linearize writes one"
        )
    loaded = load_model(str(place / REMAINING), dtype=dtype, device=device)
    try:
        content = json.loads((place / PLACES).read_text(encoding="utf-8"))
        tensors = load_file(place / TENSORS, device=str(loaded.model.device))
        insert_affine(loaded, content, tensors)
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise ModelLoadError(f"{place}: {PLACES} and {TENSORS} do not fit together: {error}; write it again") from error
    return loaded


def insert_affine(loaded: LoadedModel, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put the maps into the model that lacks their blocks. Raises ModelLoadError for shapes that do not fit."""
    width = loaded.model.config.get_text_config().hidden_size
    expected = {f"{each['place']}.{name}" for each in content["blocks"] for name in ("weight", "bias")}
    if set(tensors) != expected:
        raise ModelLoadError(f"tensors {sorted(tensors)} were found, {sorted(expected)} are due")
    misshapen = [name for name, each in tensors.items() if {*each.shape} != {width} or not torch.isfinite(each).all()]
    if misshapen:
        raise ModelLoadError(f"{', '.join(misshapen)} are not finite maps of a stream {width} wide")
    inserted = {
        each["place"]: affine_block(
            AffineMap(tensors[f"{each['place']}.weight"], tensors[f"{each['place']}.bias"]), content["outputs"], loaded
        )
        for each in content["blocks"]
    }
    insert_blocks(loaded.model, inserted, {each["place"]: each["layer_type"] for each in content["blocks"]})


def affine_block(affine: AffineMap, outputs: int, loaded: LoadedModel) -> AffineBlock:
    """The module, in the model's dtype and on its device."""
    place: dict[str, Any] = {"dtype": loaded.dtype, "device": loaded.model.device}
    return AffineBlock(affine.weight_DD.to(**place), affine.bias_D.to(**place), outputs).eval()


@torch.no_grad()
def block_outputs(loaded: LoadedModel) -> int:
    """What the model's blocks return: 0 for a tensor, else the length of a tuple. Found out by running one token."""
    seen: list[int] = []
    handle = blocks_of(loaded.model)[0].register_forward_hook(
        lambda _, __, output: seen.append(len(output) if isinstance(output, tuple) else 0)
    )
    try:
        loaded.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=loaded.model.device), use_cache=False)
    finally:
        handle.remove()
    return seen[0]
