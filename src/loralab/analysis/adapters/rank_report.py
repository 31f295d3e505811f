"""The rank that was enough, as files: the curve, the adapter cut to the knee, and ranks per module for the same energy.

rank.json, rank.png    the curve
truncated/             the adapter with every update at the knee's rank
suggested/             the adapter with ranks per module: all σ² in one pool, the largest kept until they hold as
                       much of Σ‖ΔW‖²_F as the knee does
suggested.toml         these ranks, for `loralab train --config`
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from loralab.analysis.adapters.measurement import Measurement
from loralab.analysis.adapters.parts import has_more
from loralab.analysis.adapters.rank import Curve, Point, rank_curve
from loralab.core.adapter import Adapter
from loralab.core.attach import detach
from loralab.core.thin import pooled_ranks
from loralab.core.updates.factors import usual_and_others
from loralab.files.whole import refuse_occupied, write_json, write_text
from loralab.formats.load import load
from loralab.formats.resize import Resized, read_resizable, uniform_ranks, write_resized
from loralab.formats.stored import StoredAdapter
from loralab.pictures.picture import COLOURS, GRID, INK, picture

TRUNCATED, SUGGESTED = "truncated", "suggested"


def prepare(adapter: str, out: Path) -> StoredAdapter:
    """Take the adapter's files apart, and see before anything is measured that the new ones can be written."""
    for name in (TRUNCATED, SUGGESTED):
        refuse_occupied(out / name)
    return read_resizable(adapter)


def analyse_rank(
    files: StoredAdapter,
    adapter: Adapter,
    measure: Measurement,
    out: Path,
    *,
    ranks: Sequence[int] | None,
    share: float,
    allow_other_base: bool = False,
) -> dict[str, Any]:
    """Measure, write the files, and return the summary that the command line prints.

    The two adapters that are written are loaded again and measured as they are on the disk; the model has no adapter
    afterwards.
    """
    curve = rank_curve(adapter, measure, ranks, share)
    answer: dict[str, Any] = {
        "adapter": str(files.source),
        "task": measure.task.name,
        "split": measure.split,
        "examples": measure.examples,
        "metric": measure.metric,
        "gain": curve.gain,
        "share": share,
        "knee": None if curve.knee is None else curve.knee.rank,
        "curve": [asdict(point) for point in curve.points],
        "notes": _notes(adapter, curve),
    }
    more = has_more(adapter)
    detach(measure.model, adapter.name)
    written = [] if curve.knee is None else _write_adapters(files, curve, measure, out, answer, allow_other_base)
    write_json(out / "rank.json", answer)
    rank_0 = "without its low-rank updates" if more else "base"
    _draw(curve, out / "rank.png", measure.metric, f"{adapter.name} cut to lower ranks, {measure.task.name}", rank_0)
    return answer | {"files": [str(out / "rank.json"), str(out / "rank.png"), *map(str, written)]}


def _notes(adapter: Adapter, curve: Curve) -> list[str]:
    notes = []
    if has_more(adapter):
        notes.append("rank 0 keeps what the adapter trains in full (a head, biases, a prefix)")
    if curve.knee is None:
        notes.append("the adapter does not improve the metric here: no rank is enough, and no adapter was written")
    return notes


# -- the adapters ---------------------------------------------------------------------------------------------------


def _write_adapters(
    files: StoredAdapter, curve: Curve, measure: Measurement, out: Path, answer: dict[str, Any], allow_other_base: bool
) -> list[Path]:
    knee = curve.knee
    assert knee is not None
    pooled = pooled_ranks([piece.energy_K for piece in files.pieces], knee.energy)
    plans = {
        TRUNCATED: uniform_ranks(files, knee.rank),
        SUGGESTED: dict(zip((piece.name for piece in files.pieces), pooled, strict=True)),
    }
    for name, ranks in plans.items():
        why = f"cut by SVD from {files.source} to {'rank' if name == TRUNCATED else 'the energy of rank'} {knee.rank}"
        resized = write_resized(files, ranks, out / name, why)
        load(measure.model, out / name, "written", allow_other_base=allow_other_base)
        metric = measure()
        detach(measure.model, "written")
        kept = measure.gain(curve.points[0].metric, metric) / curve.gain
        answer[name] = _summary(resized) | {"metric": metric, "gain_share": kept}
        if kept < curve.share:
            answer["notes"].append(f"{name}/ keeps only {100 * kept:.1f}% of the gain, although its energy is the same")
    answer["rank_pattern"] = plans[SUGGESTED]
    write_text(out / "suggested.toml", _toml(files, plans[SUGGESTED], knee))
    return [out / TRUNCATED, out / SUGGESTED, out / "suggested.toml"]


def _summary(resized: Resized) -> dict[str, Any]:
    content = resized.to_json()
    return {name: content[name] for name in ("out", "error", "parameters", "parameters_before")}


def _toml(files: StoredAdapter, ranks: Mapping[str, int], knee: Point) -> str:
    """Ranks, and alphas such that every scale stays what it was trained with."""
    stabilised = all(piece.recipe.rank_stabilized for piece in files.pieces)
    usual, others, alphas = usual_and_others(
        {piece.name: piece.recipe.at_rank(ranks[piece.name], stabilised) for piece in files.pieces}
    )
    lines = [
        f"# as many directions per module as hold the energy of rank {knee.rank} of {files.source};",
        "# for loralab train --config, with the same targets",
        f"rank = {usual.rank}",
        f"alpha = {float(usual.alpha)!r}",
        *(["rank_stabilized = true"] if stabilised else []),
        "\n[rank_pattern]",
        *(f'"{name}" = {each}' for name, each in others.items()),
        "\n[alpha_pattern]",
        *(f'"{name}" = {float(each)!r}' for name, each in alphas.items()),
    ]
    return "\n".join(lines) + "\n"


# -- the picture ----------------------------------------------------------------------------------------------------


def _draw(curve: Curve, path: Path, metric: str, title: str, rank_0: str) -> None:
    with picture(path, title, 7.2, 4.4) as figure:
        axes = figure.subplots()
        measured = [point for point in curve.points if point.rank > 0]
        places = range(len(measured))
        axes.axhline(curve.points[0].metric, color="#777777", linewidth=1.2, linestyle=":", label=f"rank 0: {rank_0}")
        axes.plot(places, [point.metric for point in measured], color=COLOURS[0], marker="o", linewidth=2, label=metric)
        if curve.knee is not None:
            level = curve.points[0].metric + curve.share * (measured[-1].metric - curve.points[0].metric)
            axes.axhline(
                level, color=COLOURS[2], linewidth=1.0, linestyle="--", label=f"{100 * curve.share:g}% of the gain"
            )
            place = measured.index(curve.knee)
            knee = f"knee: rank {curve.knee.rank}, {100 * (curve.knee.gain_share or 0):.0f}% of the gain"
            ring = axes.scatter(
                [place], [curve.knee.metric], s=220, facecolors="none", edgecolors=COLOURS[1], label=knee
            )
            ring.set_linewidth(2)
        axes.set_xticks(places, [str(point.rank) for point in measured])
        axes.set_xlabel("rank of every update", fontsize=10, color=INK)
        axes.set_ylabel(metric, fontsize=10, color=INK)
        kept = axes.twinx()
        energies = [point.energy for point in measured]
        kept.plot(
            places, energies, color=COLOURS[5], marker="s", markersize=4, linewidth=1.2, label="energy kept (right)"
        )
        kept.set_ylabel("energy kept, Σσ²", fontsize=10, color="#a06a00")
        kept.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        kept.set_ylim(0, 1.05)
        for each in (axes, kept):
            each.tick_params(labelsize=9, colors=INK, length=2)
            each.spines[["top"]].set_visible(False)
        axes.grid(color=GRID, linewidth=0.6)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
