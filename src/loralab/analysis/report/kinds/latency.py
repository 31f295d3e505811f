"""Latency: each contender's time against the base's, beside the noise that the base itself shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loralab.analysis.report.section import Content, ResultTable, Section
from loralab.pictures.svg.drawing import Drawing
from loralab.pictures.svg.rows import Lane, Mark, Rows, draw_rows

BASE, AGAIN = "base", "base-again"
ROUNDS_TO_JUDGE = 5
"""As bench latency judges; with fewer rounds quartiles say nothing of noise."""
MOST_DRAWN = 6
"""Sizes of the input that have a picture."""

Size = tuple[int, int]


def latency_section(marker: str, folder: Path, content: dict[str, Any]) -> Section:
    """The table with a verdict in every row, and a picture for each size of the input."""
    noise = {(each["batch"], each["sequence"]): each for each in content.get("noise", ())}
    rounds = content.get("rounds", 0)
    verdicts = [_verdict(row, noise.get(_size(row)), rounds) for row in content["rows"]]
    table = [_line(row, verdict) for row, verdict in zip(content["rows"], verdicts, strict=True)]
    sizes = list(dict.fromkeys(_size(row) for row in content["rows"]))
    columns = ["batch × sequence", "contender", "size", "milliseconds", "slow-down", "quartiles", "against noise"]
    return Section(
        marker,
        f"Time of a forward pass of {content['model']}",
        folder,
        content,
        facts={name.replace("_", " "): content.get(name) for name in ("dtype", "threads", "rounds", "random_weights")},
        sentences=_sentences(content, rounds),
        tables=[ResultTable.of("Each contender", columns, table)],
        drawings=[
            drawing for size in sizes[:MOST_DRAWN]
            if (drawing := _drawing(size, content["rows"], verdicts, noise.get(size))) is not None
        ],
    )  # fmt: skip


def _size(row: Content) -> Size:
    return row["batch"], row["sequence"]


def _verdict(row: Content, noise: Content | None, rounds: int) -> str:
    """Whether a ratio can be told from the base timed twice; files of earlier versions are judged here alike."""
    if row["contender"] == BASE:
        return ""
    if row["contender"] == AGAIN:
        return "is the noise"
    if noise is None or rounds < ROUNDS_TO_JUDGE:
        return "not judged"
    within = row["ratio_low"] <= noise["high"] and noise["low"] <= row["ratio_high"]
    return "noise" if within else "beyond"


def _line(row: Content, verdict: str) -> list[Any]:
    return [
        f"{row['batch']} × {row['sequence']}",
        row["contender"],
        row.get("size") or None,
        row["milliseconds"],
        _per_cent(row["ratio"]),
        f"{_per_cent(row['ratio_low'])} to {_per_cent(row['ratio_high'])}",
        verdict,
    ]


def _per_cent(ratio: float) -> str:
    text = f"{100 * (ratio - 1):+.1f}%"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text.replace("-", "−")


def _sentences(content: Content, rounds: int) -> list[str]:
    few = f"{rounds} rounds say nothing of noise: measure {ROUNDS_TO_JUDGE} or more before you believe a figure."
    within = content.get("merged_within_noise")
    merged = {
        True: "Merged LoRA cannot be told from the base: what its figures differ by is noise.",
        False: "Merged LoRA differs from the base by more than the noise in at least one size.",
    }
    return [few] if rounds < ROUNDS_TO_JUDGE else [merged[within]] if within in merged else []


def _drawing(size: Size, rows: Sequence[Content], verdicts: Sequence[str], noise: Content | None) -> Drawing | None:
    shown = [
        _row(row, verdict)
        for row, verdict in zip(rows, verdicts, strict=True)
        if _size(row) == size and row["contender"] not in (BASE, AGAIN)
    ]
    shade = None if noise is None else (100 * (noise["low"] - 1), 100 * (noise["high"] - 1))
    title = f"Slow-down at batch {size[0]}, {size[1]} tokens (shaded: the base against itself)"
    return draw_rows(Rows(title, "slow-down, % of the base's time", shown, origin=0.0, band=shade))


def _row(row: Content, verdict: str) -> Lane:
    ends = (100 * (row["ratio_low"] - 1), 100 * (row["ratio_high"] - 1))
    said = "noise" if verdict == "noise" else _per_cent(row["ratio"])
    name = f"{row['contender']} {row['size'] or ''}".strip()
    return Lane(name, [Mark(100 * (row["ratio"] - 1), ends, said, 6 if verdict == "noise" else 0)])
