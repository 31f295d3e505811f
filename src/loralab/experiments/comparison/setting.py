"""One setting of a comparison: a method with the sizes it is given. All its seeds make one row of the table."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from loralab.experiments.comparison.config import CompareConfig, holds
from loralab.methods.settings import BOTTLENECK, LOW_RANK, PREFIX


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
        return holds(self.method, (*LOW_RANK, *BOTTLENECK, *PREFIX))

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
        own_targets = {} if holds(self.method, LOW_RANK) else {"exclude": None}
        return {"method": self.method, "targets": self.targets, "limit": self.train_examples, **own_targets, **changes}


def settings_of(config: CompareConfig) -> list[Setting]:
    """Every setting, method by method; within one, the number of examples changes last but before the seeds."""
    return [setting for method in config.methods for setting in _of_method(config, method)]


def _of_method(config: CompareConfig, method: str) -> list[Setting]:
    axes: list[list[dict[str, Any]]] = []
    if holds(method, LOW_RANK):
        axes.append([{"targets": each} for each in config.targets_to_try])
        axes.append([{"rank": each} for each in config.ranks or (config.rank,)])
    if holds(method, BOTTLENECK):
        axes.append([{"size": each} for each in config.sizes or (config.size,)])
    if holds(method, PREFIX):
        axes.append([{"prefix": before, "infix": after} for before, after in config.prefixes_to_try])
    axes.append([{"train_examples": each} for each in config.train_sizes or (config.limit,)])
    empty = Setting(method=method)
    return [replace(empty, **{k: v for part in parts for k, v in part.items()}) for parts in product(*axes)]
