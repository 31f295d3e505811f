"""The settings of a comparison, and its cells: a training each, one for every setting and seed.

A setting is a method with the sizes it is given. All its seeds make one row of the table.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from loralab.experiments.comparison.config import CompareConfig, sized_by
from loralab.methods.table import rows_of
from loralab.training.config import TrainConfig

_UNFIT = re.compile(r"[^A-Za-z0-9_.+]+")
_LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A method and what it has of the axes; None where the method has no such thing."""

    method: str
    rank: int | None = None
    targets: str | None = None
    """Of lora, as `--targets` takes them; None is also the family's q and v."""
    size: int | None = None
    """The bottleneck's width."""
    prefix: int | None = None
    """Trained positions before the prompt."""
    infix: int | None = None
    """And after it."""
    train_examples: int | None = None
    """The first so many; None is all."""

    @property
    def has_size(self) -> bool:
        """Whether a budget can choose how large it is."""
        return any(row.sized_by for row in rows_of(self.method))

    def described(self) -> str:
        """What it has, for people: `r=4, q,v`. The method and the number of examples are not in it."""
        parts = [
            f"r={self.rank}" if self.rank is not None else "",
            self.targets or "",
            f"size {self.size}" if self.size is not None else "",
            f"{self.prefix}+{self.infix} positions" if self.prefix is not None else "",
        ]
        return ", ".join(part for part in parts if part)

    def training_changes(self) -> dict[str, Any]:
        """The fields of a training's configuration that it decides."""
        sizes = {name: getattr(self, name) for name in ("rank", "size", "prefix", "infix")}
        changes = {name: value for name, value in sizes.items() if value is not None}
        own_targets = {} if sized_by(self.method, "rank") else {"exclude": None}
        return {"method": self.method, "targets": self.targets, "limit": self.train_examples, **own_targets, **changes}


def settings_of(config: CompareConfig) -> list[Setting]:
    """Every setting, method by method; within one, the number of examples changes last but before the seeds."""
    return [setting for method in config.methods for setting in _of_method(config, method)]


def _of_method(config: CompareConfig, method: str) -> list[Setting]:
    axes: list[list[dict[str, Any]]] = []
    if sized_by(method, "rank"):
        axes.append([{"targets": each} for each in config.targets_to_try])
        axes.append([{"rank": each} for each in config.ranks or (config.rank,)])
    if sized_by(method, "size"):
        axes.append([{"size": each} for each in config.sizes or (config.size,)])
    if sized_by(method, "positions"):
        axes.append([{"prefix": before, "infix": after} for before, after in config.prefixes_to_try])
    axes.append([{"train_examples": each} for each in config.train_sizes or (config.limit,)])
    empty = Setting(method=method)
    return [replace(empty, **{k: v for part in parts for k, v in part.items()}) for parts in product(*axes)]


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


def cells_of(
    config: CompareConfig, settings: list[Setting], rates: Mapping[Setting, float] | None = None
) -> list[Cell]:
    """Every setting with every seed, in the order in which they run: a setting's seeds one after the other.

    `rates` are those that were found for the settings, where they were looked for.
    """
    cells: list[Cell] = []
    taken: dict[str, int] = {}
    for setting in settings:
        for seed in config.seeds:
            name = f"{readable(setting)}-seed-{seed}"
            taken[name] = taken.get(name, 0) + 1
            name += f"-{taken[name]}" if taken[name] > 1 else ""
            cells.append(Cell(name, setting, _training(config, setting, seed, name, (rates or {}).get(setting))))
    return cells


def _training(config: CompareConfig, setting: Setting, seed: int, name: str, rate: float | None) -> TrainConfig:
    lr = (config.method_lr or {}).get(setting.method, config.lr) if rate is None else rate
    out = str(Path(config.out) / "cells" / name)
    return config.training(seed=seed, lr=lr, out=out, **setting.training_changes())


def readable(setting: Setting) -> str:
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
