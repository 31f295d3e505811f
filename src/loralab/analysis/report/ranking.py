"""Which runs were better: runs of the same conditions are ranked by the metric that they share, seeds together.

Runs of another task, other data or another number of held-out examples stand in a ranking of their own: their figures
say nothing of each other. Nor do losses of other models, whose tokens differ.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from loralab.analysis.report.section import Content, Section
from loralab.analysis.report.words import described, value_text
from loralab.metrics.scores import higher_is_better

CONDITIONS = ("task", "data", "validation", "validation_share", "eval_limit", "best_epoch")
"""Settings under which held-out figures can be compared; of data the files' hashes, where the run recorded them."""
PER_TOKEN = ("loss", "perplexity")
"""Metrics that depend on the model's tokenizer."""
_NOT_A_SETTING = (
    *CONDITIONS, "out", "seed", "save_every", "keep", "resume", "overwrite", "threads", "device", "processes", "shard",
    "eval_before", "samples", "board",
)  # fmt: skip
"""What may differ between the seeds of one setting, or is a condition."""
_IN_THE_NAME = ("method", "rank", "size", "prefix", "infix", "targets")


@dataclass(frozen=True)
class RankedSetting:
    """One setting and what its runs reached."""

    name: str
    runs: Sequence[Section]
    values: Sequence[float]
    """Of the ranking's metric, a value for each run."""

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation over seeds; None for one run, which shows no spread."""
        return stdev(self.values) if len(self.values) > 1 and math.isfinite(self.mean) else None

    @property
    def best_run(self) -> Section:
        """The run whose adapter is worth going on with is the setting's first: its seeds are equals."""
        return self.runs[0]


@dataclass(frozen=True)
class Ranking:
    """Settings of the same conditions, the best first; what is not a finite number is last."""

    conditions: Mapping[str, str]
    """What all of them share, in words."""
    metric: str
    entries: Sequence[RankedSetting]

    @property
    def close(self) -> bool | None:
        """Whether the first two differ by less than their seeds do; None where a spread is not known."""
        first, second = self.entries[:2] if len(self.entries) > 1 else (None, None)
        if first is None or second is None or first.sd is None or second.sd is None:
            return None
        return abs(first.mean - second.mean) <= math.hypot(first.sd, second.sd)


def rankings(runs: Iterable[Section]) -> list[Ranking]:
    """A ranking for each set of conditions, in the order in which they come first; runs that have not ended, and runs
    without held-out figures, are left out.
    """
    groups: dict[str, list[Section]] = {}
    for run in runs:
        if figures(run):
            groups.setdefault(_key(conditions(run)), []).append(run)
    return [ranking for group in groups.values() for ranking in _of_group(group)]


def figures(run: Section) -> Mapping[str, float]:
    """The held-out metrics; none of a run that has not ended."""
    return (run.content.get("result") or {}).get("metrics") or {}


def conditions(run: Section) -> dict[str, Any]:
    """Under which its held-out figures were measured."""
    config = run.content["config"]
    stated = {name: config[name] for name in CONDITIONS if config.get(name) not in (None, False)}
    recorded = (run.content.get("data") or {}).get("files")
    return stated | ({"data": recorded} if recorded else {})


def differences(found: Sequence[Ranking]) -> list[str]:
    """The conditions in which rankings differ, with their values: `task (cola, e2e)`."""
    names = dict.fromkeys(name for each in found for name in each.conditions)
    values = {name: list(dict.fromkeys(each.conditions.get(name, "as usual") for each in found)) for name in names}
    return [f"{name.replace('_', ' ')} ({', '.join(those)})" for name, those in values.items() if len(those) > 1]


def _of_group(runs: Sequence[Section]) -> list[Ranking]:
    metric = _shared_metric(runs)
    if metric is None:
        return [ranking for run in runs for ranking in _of_group([run])] if len(runs) > 1 else []
    models = list(dict.fromkeys(run.content["config"].get("model") for run in runs))
    if metric in PER_TOKEN and len(models) > 1:
        by_model = [[run for run in runs if run.content["config"].get("model") == model] for model in models]
        return [_ranking(group, metric, of_model=True) for group in by_model]
    return [_ranking(runs, metric, of_model=len(models) == 1)]


def _shared_metric(runs: Sequence[Section]) -> str | None:
    """The first that all have: one of the task before the loss."""
    shared = [name for name in figures(runs[0]) if all(name in figures(run) for run in runs)]
    return min(shared, key=lambda name: (name in PER_TOKEN, name == "perplexity"), default=None)


def _ranking(runs: Sequence[Section], metric: str, *, of_model: bool) -> Ranking:
    settings: dict[str, list[Section]] = {}
    for run in runs:
        settings.setdefault(_key(_setting(run)), []).append(run)
    differing = _differing([_setting(group[0]) for group in settings.values()])
    entries = [
        RankedSetting(_name(group[0], differing), group, [float(figures(run)[metric]) for run in group])
        for group in settings.values()
    ]
    sign = -1 if higher_is_better(metric) else 1
    entries.sort(key=lambda entry: (not math.isfinite(entry.mean), sign * entry.mean))
    shared = conditions(runs[0]) | ({"model": runs[0].content["config"].get("model")} if of_model else {})
    return Ranking({name: _in_words(value) for name, value in shared.items()}, metric, entries)


def _setting(run: Section) -> dict[str, Any]:
    """Without what is not set, so that a record of an earlier version, which lacks a new field, says the same."""
    config = run.content["config"]
    return {name: value for name, value in config.items() if name not in _NOT_A_SETTING and value not in (None, False)}


def _differing(settings: Sequence[Content]) -> list[str]:
    """Fields in which settings differ and which the name does not have anyway."""
    names = sorted({name for each in settings for name in each} - set(_IN_THE_NAME))
    return [name for name in names if len({_key(each.get(name)) for each in settings}) > 1]


def _name(run: Section, differing: Sequence[str]) -> str:
    config = run.content["config"]
    return ", ".join(
        [described(config), *(f"{name.replace('_', ' ')} {value_text(config.get(name))}" for name in differing)]
    )


def _in_words(value: Any) -> str:
    """Files by their names; their hashes tell files of one name apart."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {str(mark)[:6]}" for name, mark in value.items())
    return value_text(value)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
