"""The sizes that give the methods of a comparison one budget, counted as `plan` does: on a model without weights."""

from dataclasses import replace

from transformers import PreTrainedModel

from loralab.core.attach import attach, detach
from loralab.errors import SpecError
from loralab.experiments.comparison.budget import nearest_size
from loralab.experiments.comparison.config import CompareConfig, holds
from loralab.experiments.comparison.setting import Setting
from loralab.methods.counts import parameter_counts
from loralab.methods.settings import BOTTLENECK, LOW_RANK
from loralab.methods.table import specification
from loralab.planning.blueprint import blueprint
from loralab.tasks.table import open_task


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
    if holds(setting.method, LOW_RANK):
        return replace(setting, rank=size)
    if holds(setting.method, BOTTLENECK):
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
