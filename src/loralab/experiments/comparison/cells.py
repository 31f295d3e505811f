"""The cells of a comparison: one training each, with a name, as files say it."""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.setting import Setting
from loralab.training.config import TrainConfig

_UNFIT = re.compile(r"[^A-Za-z0-9_.+]+")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Cell:
    """One setting with one seed."""

    name: str
    """Of its folder."""
    setting: Setting
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """Where it trains."""
        return Path(self.config.out)


def cells_of(config: CompareConfig, settings: list[Setting]) -> list[Cell]:
    """Every setting with every seed, in the order in which they run: a setting's seeds one after the other."""
    cells: list[Cell] = []
    taken: dict[str, int] = {}
    for setting in settings:
        for seed in config.seeds:
            name = f"{_readable(setting)}-seed-{seed}"
            taken[name] = taken.get(name, 0) + 1
            name += f"-{taken[name]}" if taken[name] > 1 else ""
            cells.append(Cell(name, setting, _training(config, setting, seed, name)))
    return cells


def _training(config: CompareConfig, setting: Setting, seed: int, name: str) -> TrainConfig:
    lr = (config.method_lr or {}).get(setting.method, config.lr)
    out = str(Path(config.out) / "cells" / name)
    return config.training(seed=seed, lr=lr, out=out, **setting.training_changes())


def _readable(setting: Setting) -> str:
    """`lora-r4-q-v`, `adapter-h-size8-n100`: letters that no file system minds."""
    parts = [
        setting.method,
        f"r{setting.rank}" if setting.rank is not None else "",
        _UNFIT.sub("-", setting.targets or "").strip("-"),
        f"size{setting.size}" if setting.size is not None else "",
        f"{setting.prefix}+{setting.infix}" if setting.prefix is not None else "",
        f"n{setting.train_examples}" if setting.train_examples is not None else "",
    ]
    return "-".join(part for part in parts if part)[:_LONGEST_NAME]


def as_toml(config: TrainConfig) -> str:
    """The configuration as a file that `loralab train --config` takes; fields that are None are left out."""
    values = {each.name: getattr(config, each.name) for each in fields(config)}
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)


def _toml(value: Any) -> str:
    """TOML writes strings, numbers, booleans and lists as JSON does, and mappings with equals signs."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
