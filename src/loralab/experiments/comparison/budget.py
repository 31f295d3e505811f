"""One budget for the methods of a comparison: the sizes at which they train as nearly the same number of parameters as
can be, counted as `plan` does, on a model without weights.
"""

from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from loralab.core.attach import attach, detach
from loralab.errors import SpecError
from loralab.experiments.comparison.cells import Setting
from loralab.experiments.comparison.config import CompareConfig, sized_by
from loralab.methods.counts import parameter_counts
from loralab.methods.registry import specification
from loralab.planning.blueprint import blueprint
from loralab.tasks.table import open_task

Count = Callable[[str, int], int | None]
"""Trainable parameters of a method at a size, the head apart; None for a size that the model cannot take. It grows with
the size."""

LARGEST = 1 << 20
"""No size is looked for beyond."""


def nearest_size(count: Count, method: str, budget: int) -> int:
    """The size from 1 whose count is nearest to `budget`; of two as near, the smaller one.

    Raises SpecError if the method cannot be counted even at size 1.
    """
    if count(method, 1) is None:
        raise SpecError(f"match_params: the model cannot take {method}, not even at size 1")
    below, above = _bracket(count, method, budget)
    while above - below > 1:
        middle = (below + above) // 2
        trained = count(method, middle)
        if trained is not None and trained <= budget:
            below = middle
        else:
            above = middle
    return min((below, above), key=lambda size: _miss(count(method, size), budget))


def _bracket(count: Count, method: str, budget: int) -> tuple[int, int]:
    """Sizes (below, above) between which the budget is crossed, or the model's limit is: found by doubling."""
    below = above = 1
    while above < LARGEST:
        trained = count(method, above)
        if trained is None or trained > budget:
            break
        below, above = above, 2 * above
    return below, above


def _miss(trained: int | None, budget: int) -> float:
    return float("inf") if trained is None else abs(trained - budget)


def matched_settings(config: CompareConfig, settings: list[Setting]) -> list[Setting]:
    """The settings with the sizes nearest to `config.match_params`; what has no size stays as it is.

    Raises what opening the task, reading the model's configuration or attaching a method raises.
    """
    task = open_task(config.task, config.data, kind=config.kind)
    model = blueprint(config.model, 1 if task.kind == "regression" else len(task.labels) or None)
    return [_matched(config, model, setting) if setting.has_size else setting for setting in settings]


def with_size(setting: Setting, size: int) -> Setting:
    """The setting at this size: the rank if it holds lora, else the bottleneck, else the positions in all.

    Positions are divided between prefix and infix as the setting has them.
    """
    if sized_by(setting.method, "rank"):
        return replace(setting, rank=size)
    if sized_by(setting.method, "size"):
        return replace(setting, size=size)
    before, after = setting.prefix or 0, setting.infix or 0
    infix = round(size * after / (before + after))
    return replace(setting, prefix=size - infix, infix=infix)


def _matched(config: CompareConfig, model: PreTrainedModel, setting: Setting) -> Setting:
    def count(method: str, size: int) -> int | None:
        """A rank beyond a weight's sides is refused, as is everything that is wrong at any size."""
        try:
            return _parameters(config, model, with_size(setting, size))
        except SpecError:
            if size == 1:
                raise
            return None

    return with_size(setting, nearest_size(count, setting.method, config.match_params or 1))


def _parameters(config: CompareConfig, model: PreTrainedModel, setting: Setting) -> int:
    adapter = attach(model, specification(config.training(**setting.training_changes())))
    try:
        return parameter_counts(adapter, model).method
    finally:
        detach(model)
