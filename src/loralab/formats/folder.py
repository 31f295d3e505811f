"""An adapter's folder: where its files are, and what an adapter that lies there is called."""

import re
from pathlib import Path
from typing import Any

from loralab.errors import NotFoundError
from loralab.files.names import CONFIG_NAME, OLD_TENSORS_NAME, TENSORS_NAME
from loralab.files.whole import read_json

_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def name_for(path: Path) -> str:
    """An adapter's name from its folder or file: what may not be in a name becomes '-'."""
    stem = path.resolve().name if path.is_dir() else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "default"


def tensors_path(folder: Path) -> Path:
    """The file with the tensors of a PEFT folder; NotFoundError if it holds no such file."""
    for name in (TENSORS_NAME, OLD_TENSORS_NAME):
        if (folder / name).exists():
            return folder / name
    raise NotFoundError(f"{folder} is not an adapter: there is no {TENSORS_NAME} in it")


def config_content(folder: Path) -> dict[str, Any]:
    """The content of a folder's adapter_config.json; NotFoundError says where adapters are instead."""
    if not (folder / CONFIG_NAME).exists():
        inside = sorted(each.parent.name for each in folder.glob(f"*/{CONFIG_NAME}"))
        hint = f"; there are adapters in its folders {', '.join(inside)}" if inside else ""
        raise NotFoundError(f"{folder} is not an adapter: there is no {CONFIG_NAME} in it{hint}")
    return read_json(folder / CONFIG_NAME)


def model_files(folder: Path) -> list[str]:
    """The files of a whole model that lie in the folder."""
    return [name for name in _MODEL_FILES if (folder / name).exists()]
