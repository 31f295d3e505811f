"""The top of the report: which setting is best, how sure that is, what cannot be compared, and what to do next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loralab.analysis.report.collect import Collected
from loralab.analysis.report.kinds.comparison import spread_text
from loralab.analysis.report.next_steps import Step, next_steps
from loralab.analysis.report.ranking import RankedSetting, Ranking, differences, figures, rankings
from loralab.analysis.report.section import Content, ResultTable, Section
from loralab.evaluation.few import ENOUGH
from loralab.metrics.scores import bounds, higher_is_better, level, within_bounds
from loralab.pictures.svg.drawing import Drawing
from loralab.pictures.svg.rows import Lane, Mark, Rows, draw_rows

MOST_DRAWN = 20
"""Settings in the picture of a ranking; its table has all."""
FEWEST_DRAWN = 2


@dataclass(frozen=True)
class Ranked:
    """One ranking as it is shown."""

    sentences: Sequence[str]
    table: ResultTable
    drawing: Drawing | None


@dataclass(frozen=True)
class Summary:
    """All of it."""

    sentences: Sequence[str]
    rankings: Sequence[Ranked]
    steps: Sequence[Step]


def summary(collected: Collected) -> Summary:
    """Of everything that was collected."""
    runs = [section for section in collected.sections if section.kind == "run"]
    found = rankings(runs)
    comparisons = [section for section in collected.sections if section.kind == "comparison"]
    return Summary(
        [
            *_apart(found),
            *map(_compared, comparisons),
            *_left_out(runs),
            *_cut(collected.sections),
            *_loose(found),
        ],
        [_ranked(ranking) for ranking in found],
        next_steps(collected.sections, found),
    )


def _apart(found: Sequence[Ranking]) -> list[str]:
    if len(found) < FEWEST_DRAWN:
        return []
    differing = differences(found) or ["the metrics they have"]
    return [
        f"These runs cannot all be compared with each other, and are ranked in {len(found)} tables: they differ in "
        f"{'; '.join(differing)}."
    ]


def _left_out(runs: Sequence[Section]) -> list[str]:
    """Runs that are in no ranking, and why."""
    unfinished = [run.folder.name for run in runs if not run.content.get("result")]
    unmeasured = [run.folder.name for run in runs if run.content.get("result") and not figures(run)]
    return [
        *([f"Not ranked, since they have not ended: {', '.join(unfinished)}."] if unfinished else []),
        *([f"Not ranked, without held-out figures: {', '.join(unmeasured)}."] if unmeasured else []),
    ]


def _cut(sections: Sequence[Section]) -> list[str]:
    cut = [str(section.folder) for section in sections if section.kind == "cut"]
    return [f"Not ranked, since they were cut and not trained: {', '.join(cut)}."] if cut else []


def _loose(found: Sequence[Ranking]) -> list[str]:
    """Figures of few examples, which say little."""
    counts = {
        run.folder.name: count
        for ranking in found
        for entry in ranking.entries
        for run in entry.runs
        if (count := (run.content["result"].get("held_out") or {}).get("examples", ENOUGH)) < ENOUGH
    }
    if not counts:
        return []
    few = sorted(set(counts.values()))
    examples = f"{few[0]}" if len(few) == 1 else f"{few[0]} to {few[-1]}"
    return [
        f"Measured on {examples} held-out examples only: {', '.join(counts)}. Such figures are loose; hold out "
        f"at least {ENOUGH}."
    ]


def _compared(section: Section) -> str:
    """The best row of a comparison."""
    metric = str(section.content["metric"] or "loss")
    rows = [row for row in section.content["rows"] if metric in row["metrics"]]
    if not rows:
        return f"{section.title}: no setting gave a result."
    rows.sort(key=lambda row: _order(row["metrics"][metric]["mean"], metric))
    best, count = rows[0], len(rows[0]["seeds"])
    said = (
        f"{section.title}: {best['label']} is best, {metric} {spread_text(best['metrics'][metric])} over {count} seed"
    )
    return f"{said}{'s' if count > 1 else ''}{_doubt(rows, metric)}."


def _doubt(rows: Sequence[Content], metric: str) -> str:
    first, second = (row["metrics"][metric] for row in (rows[0], rows[min(1, len(rows) - 1)]))
    if len(rows) > 1 and level(first["mean"], first["sd"], second["mean"], second["sd"]):
        return f"; {rows[1]['label']} is within the spread over seeds"
    return ""


def _order(value: float, metric: str) -> tuple[bool, float]:
    return not math.isfinite(value), -value if higher_is_better(metric) else value


# -- one ranking --------------------------------------------------------------------------------------------------


def _ranked(ranking: Ranking) -> Ranked:
    better = "higher" if higher_is_better(ranking.metric) else "lower"
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in ranking.conditions.items())
    title = f"By held-out {ranking.metric} ({better} is better): {where}"
    columns = ["place", "setting", f"held-out {ranking.metric}", "runs", "trained", "folders"]
    rows = [_row(place, entry) for place, entry in enumerate(ranking.entries, start=1)]
    return Ranked(_sentences(ranking), ResultTable.of(title, columns, rows), _drawing(ranking))


def _row(place: int, entry: RankedSetting) -> list[Any]:
    trained = (entry.best_run.content.get("result") or {}).get("trainable_params")
    folders = ", ".join(run.folder.name for run in entry.runs)
    return [place, entry.name, _figure(entry), len(entry.values), trained, folders]


def _figure(entry: RankedSetting) -> str:
    if not math.isfinite(entry.mean):
        return "not a finite number"
    return f"{entry.mean:.4g}" if entry.sd is None else f"{entry.mean:.4g} ± {entry.sd:.2g}"


def _sentences(ranking: Ranking) -> list[str]:
    first, several = ranking.entries[0], len(ranking.entries) > 1
    if not math.isfinite(first.mean):
        return [f"No run has a {ranking.metric} that is a number: all diverged."]
    of = f"over {len(first.values)} seeds" if len(first.values) > 1 else "with one seed"
    said = [f"{'Best' if several else 'One setting'}: {first.name}, {ranking.metric} {_figure(first)} {of}."]
    if ranking.close is True:
        said.append(f"The second, {ranking.entries[1].name}, differs by less than seeds do: they are level.")
    elif ranking.close is None and several:
        said.append("Where a setting has one seed alone, a difference may be chance.")
    return said


def _drawing(ranking: Ranking) -> Drawing | None:
    if len(ranking.entries) < FEWEST_DRAWN:
        return None
    rows = [Lane(entry.name, [_mark(entry, ranking.metric)]) for entry in ranking.entries[:MOST_DRAWN]]
    title = f"Held-out {ranking.metric}, mean ± sd over seeds"
    return draw_rows(Rows(title, ranking.metric, rows, bounds=bounds(ranking.metric)))


def _mark(entry: RankedSetting, metric: str) -> Mark:
    ends = None if entry.sd is None else within_bounds(metric, entry.mean, entry.sd)
    return Mark(entry.mean, ends, _figure(entry))
