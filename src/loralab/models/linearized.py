"""A model some of whose blocks are affine maps, on disk: no stock architecture has such a block, and none is pretended.

    FOLDER/remaining/                  the model without those blocks: a Hugging Face folder like any other
    FOLDER/affine_blocks.safetensors   PLACE.weight [D, D] and PLACE.bias [D] in float32: y = h + h·weightᵀ + bias
    FOLDER/affine_blocks.json          where each goes, and how many blocks it stands for

FOLDER itself has no config.json: what does not know of the maps refuses it, instead of loading another model.
`load_model` puts both together, so every verb that runs a model takes FOLDER; `transformers` reads `remaining`, which
is the same model with the blocks dropped.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from loralab.errors import NotFoundError
from loralab.models.folder import write_proved
from loralab.models.load import LoadedModel, load_model
from loralab.models.locate import AFFINE_PLACES, is_linearized
from loralab.models.surgery.affine import REMAINING, TENSORS, AffineMap, block_outputs
from loralab.models.surgery.blocks import Run, blocks_of, keep_blocks, layer_type


def write_linearized(loaded: LoadedModel, maps: Mapping[Run, AffineMap], folder: Path) -> None:
    """Fill an empty folder from the whole model, which loses those blocks. Raises what writing and proving raise."""
    total, outputs = len(blocks_of(loaded.model)), block_outputs(loaded.model)
    runs = sorted(maps)
    gone = {number for start, end in runs for number in range(start, end)}
    places, shift = {}, 0
    for start, end in runs:
        places[start - shift] = (start, end)
        shift += end - start - 1
    content = {
        "about": "affine maps in the place of blocks; loralab's --model takes this folder",
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
    (folder / AFFINE_PLACES).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_linearized(folder: str | Path, *, dtype: str = "auto", device: str = "auto") -> LoadedModel:
    """The model of a folder that `write_linearized` filled, its affine blocks in place and in the model's dtype.

    Raises NotFoundError for a folder that is not one, and ModelLoadError where its parts do not fit together.
    """
    if not is_linearized(str(folder)):
        raise NotFoundError(
            f"{folder} was to be a linearized model, but it has no {AFFINE_PLACES}; "
            "loralab analyse linearize writes one"
        )
    return load_model(str(folder), dtype=dtype, device=device)
