"""A training run; and an adapter that was cut from one, which is no run: its record is its parent's."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loralab.analysis.report.section import Content, ResultTable, Section, read_object
from loralab.analysis.report.words import described
from loralab.errors import SpecError
from loralab.pictures.svg.curves import Curves, Series, draw_curves
from loralab.pictures.svg.drawing import Drawing

MOST_LETTERS = 400
"""Of a sample."""
MOST_POINTS = 600
"""Of a curve; more are thinned out evenly."""

Journal = dict[str, list[tuple[float, float]]]
"""Loss by step, of the training steps and of the measurements."""


def run_section(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    """Figures, curves and configuration of a run; of a cut adapter what it was cut from."""
    if "resized" in content:
        return _cut(folder, content)
    result, config = content.get("result") or {}, content["config"]
    journal, remarks = _journal(folder / "metrics.jsonl")
    unfinished = [] if result else ["This run has not ended: what is here is what it wrote so far."]
    return Section(
        marker,
        f"{described(config)} on {config.get('task')}{_seed(config)}",
        folder,
        content,
        facts=_facts(config, result),
        sentences=[*unfinished, *remarks, *_not_finite(journal), *_bad_figures(result)],
        tables=_samples(result),
        drawings=_drawings(journal),
        settings=config,
    )


def _seed(config: Content) -> str:
    """What tells the runs of one setting apart."""
    return "" if config.get("seed") is None else f", seed {config['seed']}"


def _facts(config: Content, result: Content) -> dict[str, Any]:
    return {
        "model": config.get("model"),
        "task": config.get("task"),
        "trained parameters": result.get("trainable_params"),
        "of": result.get("total_params"),
        "steps": result.get("steps"),
        "tokens a second": result.get("tokens_per_second"),
        "peak memory, MB": result["peak_memory_bytes"] / 1e6 if result.get("peak_memory_bytes") else None,
        "held-out examples": (result.get("held_out") or {}).get("examples"),
    } | _before_and_after(result)


def _before_and_after(result: Content) -> dict[str, Any]:
    """The held-out figures, beside those of the base where the run measured them."""
    before = result.get("before") or {}
    facts: dict[str, Any] = {}
    for name, value in (result.get("metrics") or {}).items():
        facts |= {f"held-out {name}": value}
        facts |= {f"{name} of the base": before[name]} if name in before else {}
    return facts


def _samples(result: Content) -> list[ResultTable]:
    """What it answered to a few prompts, before and after."""
    columns = ("prompt", "wanted", "before", "after")
    rows = [[_cut_short(sample.get(column)) for column in columns] for sample in result.get("samples") or ()]
    return [ResultTable.of("Answers", [*columns], rows)] if rows else []


def _cut_short(text: object) -> str | None:
    return None if text is None else str(text) if len(str(text)) <= MOST_LETTERS else f"{str(text)[:MOST_LETTERS]} …"


def _bad_figures(result: Content) -> list[str]:
    bad = [name for name, value in (result.get("metrics") or {}).items() if not math.isfinite(value)]
    return (
        [f"Not a finite number: held-out {', '.join(bad)}. The run diverged; train with a lower --lr."] if bad else []
    )


def _cut(folder: Path, content: Content) -> Section:
    """With what `analyse rank` measured of it, where its rank.json is in the folder above."""
    measured = _measured(folder)
    facts = {"model": content["config"].get("model"), "parameters": measured.get("parameters")}
    facts |= {f"{measured['of']}, measured as it is": measured["metric"]} if "metric" in measured else {}
    unknown = [] if "metric" in measured else ["What it reaches was not measured here: loralab eval with its folder."]
    why = str(content["resized"])
    return Section(
        "cut",
        f"An adapter {why}",
        folder,
        content,
        facts=facts,
        sentences=[
            "It was not trained: the figures in its run.json are those of the adapter it was cut from.",
            *unknown,
        ],
        settings=content["config"],
    )


def _measured(folder: Path) -> dict[str, Any]:
    file = folder.parent / "rank.json"
    if not file.is_file():
        return {}
    content = read_object(file)
    mine = content.get(folder.name)
    if not isinstance(mine, dict):
        return {}
    return mine | {"of": f"{content.get('split', 'held-out')} {content.get('metric')}"}


# -- curves -------------------------------------------------------------------------------------------------------


def _journal(file: Path) -> tuple[Journal, list[str]]:
    """The curves, and a remark on a last line that was not written to its end, as of a run that is being trained.

    Raises SpecError for any other line that is no JSON.
    """
    curves: Journal = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError as problem:
            if number == len(lines):
                return curves, ["The last line of its journal is incomplete: it was being written, or was interrupted."]
            raise SpecError(
                f"line {number} of {file} is not complete JSON ({problem}); remove it, or train again"
            ) from problem
        if isinstance(entry, dict) and isinstance(entry.get("loss"), int | float):
            name = "training" if entry.get("split") == "train" else "held out"
            curves.setdefault(name, []).append((float(entry["step"]), float(entry["loss"])))
    return curves, []


def _not_finite(journal: Journal) -> list[str]:
    remarks = []
    for name, points in journal.items():
        bad = [step for step, loss in points if not math.isfinite(loss)]
        if bad:
            remarks.append(
                f"{len(bad)} of {len(points)} {name} losses are not finite, the first at step {bad[0]:.0f}: they are "
                "left out of the curve."
            )
    return remarks


def _drawings(journal: Journal) -> list[Drawing]:
    order = [name for name in ("training", "held out") if name in journal]
    series = [Series(name, _thinned(journal[name]), faint=name == "training") for name in order]
    drawing = draw_curves(Curves("Loss by step", "step", "loss", series, whole=True))
    return [] if drawing is None else [drawing]


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    step = math.ceil(len(points) / MOST_POINTS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]
