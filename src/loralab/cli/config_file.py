"""The file of `--config`: TOML with the names of the flags, JSON of the same, or a run's run.json.

A run's configuration is a training's. `train` and `compare` take all of it that they have; any other verb takes what
means the same there (the model, the task, its data), and the adapter beside the file, and says so: its rank or limit
would be something else.
"""

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loralab.cli.fields import config_fields
from loralab.cli.flags import Loading, NamesTask
from loralab.errors import NotFoundError, SpecError
from loralab.files.names import CONFIG_NAME
from loralab.methods.settings import MethodSettings
from loralab.planning.config import PlanConfig
from loralab.training.config import TrainConfig

NEVER = ("resume", "overwrite")
"""Of one call, not of what it ran."""

MEANS_THE_SAME: dict[type[Any], tuple[str, ...]] = {
    object: ("model", "kind"),
    NamesTask: ("task", "data", "max_length"),
    Loading: ("quantize", "labels"),
    MethodSettings: tuple(field.name for field in fields(MethodSettings)),
    PlanConfig: ("batch_size", "gradient_checkpointing", "dtype", "quantize"),
}
"""A verb's configuration -> the keys of a training that mean the same to it."""


@dataclass(frozen=True)
class ConfigFile:
    """What a file says: values by key, and sentences about it."""

    values: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_config_file(path: Path, config: type[Any]) -> ConfigFile:
    """The keys and values of the file that a verb of this configuration takes.

    Raises NotFoundError, or SpecError for what is neither TOML nor a JSON object.
    """
    if path.is_dir():
        raise SpecError(f"--config {path} is a folder; name a TOML file, or a run's run.json")
    if not path.is_file():
        raise NotFoundError(f"--config: no such file: {path}")
    if path.suffix.lower() != ".json":
        return ConfigFile(read_toml(path))
    content = _read_json(path)
    run = content.get("config")
    return ConfigFile(content) if not isinstance(run, dict) else _of_run(run, path, config)


def read_toml(path: Path) -> dict[str, Any]:
    """The keys and values of a TOML file. Raises SpecError with the line that is wrong."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise SpecError(f"--config {path}: not a TOML file: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"--config {path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise SpecError(f"--config {path} holds a JSON {type(content).__name__}; an object of flags was expected")
    return content


def _of_run(run: dict[str, Any], path: Path, config: type[Any]) -> ConfigFile:
    """What of a run's configuration counts for a verb."""
    known = {field.name for field in config_fields(config)}
    if issubclass(config, TrainConfig):
        decided = {field.name for field in fields(config) if not field.init}
        return ConfigFile({key: value for key, value in run.items() if key not in {*NEVER, *decided}})
    same = {key for of, keys in MEANS_THE_SAME.items() if issubclass(config, of) for key in keys}
    taken = {key: value for key, value in run.items() if key in known & same and value is not None}
    if "adapter" in known and (path.parent / CONFIG_NAME).is_file():
        taken["adapter"] = str(path.parent)
    listed = ", ".join(f"{key} {taken[key]}" for key in ("model", "task", "data", "adapter") if key in taken)
    return ConfigFile(taken, (f"{path}: {listed or 'nothing of it is for this verb'}",))
