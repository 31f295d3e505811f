"""A comparison: its table, its pictures and the claims it tested."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loralab.analysis.report.section import Content, ResultTable, Section, read_object
from loralab.metrics.scores import bounds, within_bounds
from loralab.pictures.svg.curves import Curves, Series, draw_curves
from loralab.pictures.svg.drawing import Drawing

At = Callable[[Content], float | None]
"""Where a row stands on the horizontal axis."""


def comparison_section(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    """A row for each setting, with the spread over its seeds."""
    metric = str(content["metric"] or "loss")
    columns = ["method", "trained", metric, "seeds", "tokens/s", "memory, MB"]
    rows = [
        [
            row["label"],
            row["trainable_params"],
            spread_text(row["metrics"].get(metric)),
            len(row["seeds"]),
            row["tokens_per_second"],
            None if row["peak_memory_bytes"] is None else row["peak_memory_bytes"] / 1e6,
        ]
        for row in content["rows"]
    ]
    tested = [claim for claim in content.get("claims", ()) if claim["held"] is not None]
    return Section(
        "comparison",
        f"Methods compared{_of_what(folder)}",
        folder,
        content,
        sentences=[*_failures(content["rows"]), *map(_claim, tested)],
        tables=[ResultTable.of("Each setting", columns, rows)],
        drawings=_drawings(content["rows"], metric),
    )


def spread_text(values: Mapping[str, float] | None) -> str | None:
    """`71.50 ± 0.50`."""
    return None if values is None else f"{values['mean']:.2f} ± {values['sd']:.2f}"


def _of_what(folder: Path) -> str:
    """` on cola (minilm-l6)`, from the comparison's own record."""
    file = folder / "comparison.json"
    config = read_object(file).get("config", {}) if file.is_file() else {}
    return f" on {config['task']} ({config['model']})" if "task" in config and "model" in config else ""


def _failures(rows: Sequence[Content]) -> list[str]:
    return [
        f"{row['label']}, seed {each['seed']}, gave no result: {each['message']}"
        for row in rows
        for each in row.get("failed", ())
    ]


def _claim(claim: Content) -> str:
    """What was claimed, whether it held, and the figures."""
    held = "held" if claim["held"] else "did not hold"
    return f"{claim['claim']}: {held}. {claim['found'][:1].upper()}{claim['found'][1:]}."


# -- pictures -----------------------------------------------------------------------------------------------------


def _drawings(rows: Sequence[Content], metric: str) -> list[Drawing]:
    measured = [row for row in rows if metric in row["metrics"]]
    lora = [row for row in measured if row["method"] == "lora"]
    charts = [
        _chart(measured, metric, "trained parameters", lambda row: row["trainable_params"], "method"),
        _chart(_several(lora, "rank", "targets"), metric, "rank", lambda row: row["rank"], "targets", each=True),
        _chart(
            _several(measured, "train_examples", "method"), metric, "training examples",
            lambda row: row["train_examples"], "method", each=True,
        ),
    ]  # fmt: skip
    return [drawing for chart in charts if chart is not None and (drawing := draw_curves(chart)) is not None]


def _several(rows: Sequence[Content], axis: str, apart: str) -> list[Content]:
    """The rows of which others differ along this axis alone."""
    return [
        row for row in rows
        if len({other.get(axis) for other in rows if other.get(apart) == row.get(apart)} - {None}) > 1
    ]  # fmt: skip


def _chart(
    rows: Sequence[Content], metric: str, across: str, at: At, apart: str, *, each: bool = False
) -> Curves | None:  # fmt: skip
    groups: dict[str, list[tuple[float, Content]]] = {}
    for row in rows:
        place = at(row)
        if place is not None:
            groups.setdefault(str(row.get(apart) or "q,v of the family"), []).append((float(place), row))
    if not groups:
        return None
    title = f"Held-out {metric} over {across}, mean ± sd over seeds"
    series = [_series(name, sorted(points, key=lambda point: point[0]), metric) for name, points in groups.items()]
    stops = sorted({place for points in groups.values() for place, _ in points}) if each else ()
    return Curves(title, across, metric, series, stops=stops, ratios_across=True, bounds=bounds(metric))


def _series(name: str, points: Sequence[tuple[float, Content]], metric: str) -> Series:
    spreads = [row["metrics"][metric] for _, row in points]
    return Series(
        name,
        [(place, each["mean"]) for (place, _), each in zip(points, spreads, strict=True)],
        [within_bounds(metric, each["mean"], each["sd"]) for each in spreads],
    )
