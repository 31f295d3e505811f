"""The sizes that give every method of a comparison the same budget, counted on the model without its weights."""

from dataclasses import replace

from loralab.core.attach import attach, detach
from loralab.errors import SpecError
from loralab.experiments.budget import nearest_size
from loralab.experiments.comparison_config import CompareConfig, holds
from loralab.experiments.setting import Setting
from loralab.methods.counts import parameter_counts
from loralab.methods.settings import BOTTLENECK, LOW_RANK
from loralab.models.load import LoadedModel, load_model
from loralab.tasks.task import open_task
from loralab.training.prepare import adaptation


def matched_settings(config: CompareConfig, settings: list[Setting]) -> list[Setting]:
    """The settings with the sizes nearest to `config.match_params`; what has no size stays as it is.

    Raises what loading the model or attaching a method raises.
    """
    loaded = _without_weights(config)
    return [_matched(config, loaded, setting) if setting.has_size else setting for setting in settings]


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


def _without_weights(config: CompareConfig) -> LoadedModel:
    """The model as the trainings load it, then on no device: attaching to it allocates nothing."""
    task = open_task(config.task, config.data)
    regression = task.kind == "regression"
    labels = task.labels or None
    loaded = load_model(config.model, kind=task.model_kind, labels=labels, regression=regression, device="cpu")
    loaded.model.to("meta")  # type: ignore[arg-type]  # transformers wraps `to` without its type
    return loaded


def _matched(config: CompareConfig, loaded: LoadedModel, setting: Setting) -> Setting:
    def count(method: str, size: int) -> int | None:
        """A rank beyond a weight's sides is refused, as is everything that is wrong at any size."""
        try:
            return _parameters(config, loaded, with_size(setting, size))
        except SpecError:
            if size == 1:
                raise
            return None

    return with_size(setting, nearest_size(count, setting.method, config.match_params or 1))


def _parameters(config: CompareConfig, loaded: LoadedModel, setting: Setting) -> int:
    adapter = attach(loaded.model, adaptation(config.training(**setting.training_changes()), loaded))
    try:
        return parameter_counts(adapter, loaded.model).method
    finally:
        detach(loaded.model)
