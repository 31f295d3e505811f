"""An adapter's folder: where its files are, and what an adapter that lies there is called."""

import re
from pathlib import Path
from typing import Any

from loralab.errors import NotFoundError
from loralab.files.names import CONFIG_NAME, OLD_TENSORS_NAME, PLAIN_NAME, TENSORS_NAME
from loralab.files.whole import read_json
from loralab.formats.peft.config import OWN_TYPE

_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def name_for(path: Path) -> str:
    """An adapter's name from its folder or file: what may not be in a name becomes '-'."""
    stem = path.resolve().name if path.is_dir() else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "default"


def tensors_path(folder: Path) -> Path:
    """The file with the tensors of a PEFT folder; NotFoundError if there is none."""
    for name in (TENSORS_NAME, OLD_TENSORS_NAME):
        if (folder / name).exists():
            return folder / name
    raise NotFoundError(f"{folder} was asked for as an adapter, but there is no {TENSORS_NAME} in it")


def config_content(folder: Path) -> dict[str, Any]:
    """The content of a folder's adapter_config.json; NotFoundError says where adapters are instead."""
    if not (folder / CONFIG_NAME).exists():
        inside = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG_NAME}"))
        hint = f"; there are adapters in its folders {', '.join(inside)}" if inside else ""
        raise NotFoundError(f"{folder} was asked for as an adapter, but there is no {CONFIG_NAME} in it{hint}")
    return read_json(folder / CONFIG_NAME)


def model_files(folder: Path) -> list[str]:
    """The files of a whole model that lie in the folder."""
    return [name for name in _MODEL_FILES if (folder / name).exists()]


def plain_folder(folder: Path) -> Path:
    """The plain LoRA that lies in the folder of a method which PEFT lacks; the folder itself where there is none."""
    is_own = config_content(folder).get("peft_type") == OWN_TYPE
    whole = (folder / PLAIN_NAME / CONFIG_NAME).is_file()  # which is moved into place last
    return folder / PLAIN_NAME if is_own and whole else folder
