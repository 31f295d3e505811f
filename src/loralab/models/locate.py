"""From what the user calls a model to where it is: an embedded name, a folder, or an id on the Hub.

It asks the Hub as little as it can, opens no weights and knows nothing of model classes.
"""

import re
from pathlib import Path

from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from loralab.errors import ModelLoadError, NotFoundError
from loralab.files.commit import settle
from loralab.files.names import CONFIG_NAME, PEFT_FILES
from loralab.models.embedded import EMBEDDED, NAME_OF_ORIGIN, embedded_folder

AFFINE_PLACES = "affine_blocks.json"
"""What a linearized model's folder has instead of a config.json (see `linearized`)."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WEIGHTS = ("*.safetensors", *_PICKLED)


def locate(name: str) -> str:
    """The folder, as text, or the Hub id that `name` stands for. For the id that an embedded model is a copy of it is
    the copy, where the Hub cannot be reached.

    Raises `NotFoundError` for an unknown model, `ModelLoadError` for a folder without one.
    """
    if name in EMBEDDED:
        return str(embedded_folder(name))
    path = Path(name).expanduser()
    if path.is_dir():
        settle(path)
        _check_folder(path)
        return str(path)
    if path.exists():
        raise ModelLoadError(f"model {name!r} is a file; give the Hugging Face folder that holds config.json")
    if name.startswith((".", "~", "/")) or not _HUB_ID.fullmatch(name):
        raise NotFoundError(f"model {name!r}: there is no such folder; {choices()}")
    if name in NAME_OF_ORIGIN and not is_available(name):
        return str(embedded_folder(NAME_OF_ORIGIN[name]))
    return name


def stand_in(name: str, source: str) -> list[str]:
    """What to say of a model that was asked for by its id and found embedded; nothing for any other."""
    if name not in NAME_OF_ORIGIN or source == name:
        return []
    copy = NAME_OF_ORIGIN[name]
    return [f"{name} could not be had from the Hub: the embedded {copy} is used ({EMBEDDED[copy].about})"]


def is_linearized(name: str) -> bool:
    """Whether `name` is the folder of a model some of whose blocks are affine maps, as `linearized` writes it."""
    return (Path(name).expanduser() / AFFINE_PLACES).is_file()


def is_local(name: str) -> bool:
    """Whether a model is a folder of this machine, or was one of another's: no id on the Hub looks like that."""
    return name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1 or Path(name).is_dir()


def choices() -> str:
    """What a model may be called, for error messages."""
    return f"give an embedded model ({', '.join(EMBEDDED)}), a local Hugging Face folder, or a Hub id"


def _check_folder(path: Path) -> None:
    """A Hugging Face folder has config.json, and its weights in safetensors."""
    if is_linearized(str(path)):
        raise ModelLoadError(
            f"{path} is a linearized model, some of whose blocks are affine maps: loralab trains, evaluates and runs "
            "it, but it has no configuration of its own, so planning, merging into a Hugging Face folder, GGUF and "
            f"further analyses of its blocks do not work; {path / 'remaining'} is the model with these blocks dropped"
        )
    _refuse_adapter(path)
    if not (path / "config.json").is_file():
        raise ModelLoadError(f"{path} is not a Hugging Face model folder: it has no config.json; {choices()}")
    if any(path.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
    if pickled:
        raise ModelLoadError(
            f"{path} has its weights in {pickled[0]}, a pickle, which can run code when opened; "
            "load it where you trust it and write it again with save_pretrained, which writes safetensors"
        )
    raise ModelLoadError(f"{path} has no weights: no *.safetensors beside its config.json")


def _refuse_adapter(path: Path) -> None:
    """A folder with an adapter in it is not a model; with both in it, transformers puts the adapter on unasked."""
    if not (path / CONFIG_NAME).is_file():
        return
    model = [file.name for pattern in _WEIGHTS for file in sorted(path.glob(pattern)) if file.name not in PEFT_FILES]
    if not (path / "config.json").is_file() or not model:
        raise ModelLoadError(f"{path} holds an adapter, not a model; give its base as the model")
    adapter = [name for name in PEFT_FILES if (path / name).is_file()]
    raise ModelLoadError(
        f"{path} holds a whole model (config.json, {model[0]}) and an adapter ({', '.join(adapter)}), which "
        "transformers puts on the model whenever it is loaded; move the adapter into a folder of its own and name that "
        "as the adapter, or remove it"
    )


HUB_ERRORS: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
"""What a call of the Hub raises: the errors of the HTTP library that huggingface_hub uses, whichever it is, and
OSError."""
PATIENCE_SECONDS = 10.0


def is_available(name: str) -> bool:
    """Whether the model of this id has been downloaded, or can be."""
    if isinstance(try_to_load_from_cache(name, "model.safetensors"), str):
        return True
    if is_offline_mode():
        return False
    try:
        HfApi().model_info(name, timeout=PATIENCE_SECONDS)
    except HUB_ERRORS:
        return False
    return True
