"""Which rank was enough: the metric of a trained adapter cut to lower and lower ranks.

The knee is the smallest measured rank that keeps a stated share of the gain,

    m(r') − m(0) ≥ share · (m(R) − m(0))

with m signed such that more is better, R the rank as trained, and rank 0 the adapter without its low-rank updates: the
base, or the base with what the adapter trains in full (a head, biases).

Written:

rank.json, rank.png    the curve
truncated/             the adapter with every update at the knee's rank
suggested/             the adapter with ranks per module: all σ² in one pool, the largest kept until they hold as
                       much of Σ‖ΔW‖²_F as the knee does
suggested.toml         these ranks, for `loralab train --config`
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loralab.analysis.adapters.measurement import Measurement
from loralab.analysis.adapters.parts import Truncation, has_more, switched_off
from loralab.core.adapter import Adapter
from loralab.core.attach import detach
from loralab.core.thin import pooled_ranks
from loralab.core.updates.factors import usual_and_others
from loralab.errors import SpecError
from loralab.files.whole import refuse_occupied, write_json, write_text
from loralab.formats.load import load
from loralab.formats.resize import Resized, pieces, read_resizable, uniform_ranks, write_resized
from loralab.formats.stored import StoredAdapter
from loralab.pictures.picture import COLOURS, in_per_cent, legend_below, picture, style
from loralab.progress import tracked

TRUNCATED, SUGGESTED = "truncated", "suggested"


@dataclass(frozen=True)
class Point:
    """The adapter at one rank."""

    rank: int
    metric: float
    energy: float
    """The share of Σ‖ΔW‖²_F over all updates that is kept."""
    gain_share: float | None
    """Of the whole adapter's gain; None where there is no gain."""


@dataclass(frozen=True)
class Curve:
    """The adapter at every rank that was measured, 0 first and the rank as trained last."""

    points: tuple[Point, ...]
    gain: float
    """Of the whole adapter over rank 0, positive where it is better."""
    share: float
    """Of the gain, that the knee has to keep."""

    @property
    def knee(self) -> Point | None:
        """The first that keeps enough; None for an adapter without a gain."""
        enough = (p for p in self.points if p.rank > 0 and p.gain_share is not None and p.gain_share >= self.share)
        return next(enough, None)


def default_ranks(highest: int) -> list[int]:
    """1, 2, 4, … below the highest, and the highest itself."""
    doubling = [2**power for power in range(highest.bit_length()) if 2**power < highest]
    return [*doubling, highest]


def rank_curve(adapter: Adapter, measure: Measurement, ranks: Sequence[int] | None, share: float) -> Curve:
    """Measure the adapter at rank 0, at these ranks and as it is; it is afterwards as it was, bit for bit.

    Raises SpecError for a share outside (0, 1] and for ranks that the adapter does not have.
    """
    if not 0 < share <= 1:
        raise SpecError(f"share {share:g}: the part of the gain to keep must be above 0 and at most 1")
    cut = Truncation(adapter)
    chosen = sorted({*(default_ranks(cut.rank) if ranks is None else ranks), cut.rank})
    if not 1 <= chosen[0] <= chosen[-1] <= cut.rank:
        raise SpecError(f"ranks {ranks}: adapter '{adapter.name}' can be cut to ranks 1 to {cut.rank}")
    whole = measure()
    measure.announce(len(chosen))
    measured = {}
    with switched_off(measure.model, adapter, list(cut.cells)):
        measured[0] = measure()
    for rank in tracked(chosen[:-1], "ranks"):
        with cut.to(rank):
            measured[rank] = measure()
    measured[cut.rank] = whole
    gain = measure.gain(measured[0], whole)
    points = (
        Point(
            rank,
            metric,
            cut.energy_kept(rank),
            measure.gain(measured[0], metric) / gain if gain > 0 else None,
        )
        for rank, metric in measured.items()
    )
    return Curve(tuple(points), gain, share)


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
        **measure.said(),
        "gain": curve.gain,
        "share": share,
        "knee": None if curve.knee is None else curve.knee.rank,
        "curve": [asdict(point) for point in curve.points],
        "notes": [*_notes(adapter, curve), *measure.loose()],
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
    pooled = pooled_ranks([piece.energy_K for piece in pieces(files)], knee.energy)
    plans = {
        TRUNCATED: uniform_ranks(files, knee.rank),
        SUGGESTED: dict(zip((piece.name for piece in pieces(files)), pooled, strict=True)),
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
            answer["notes"].append(
                f"the adapter in {name}/ keeps only {100 * kept:.1f}% of the gain, although its energy is the same"
            )
    answer["rank_pattern"] = plans[SUGGESTED]
    write_text(out / "suggested.toml", _toml(files, plans[SUGGESTED], knee))
    return [out / TRUNCATED, out / SUGGESTED, out / "suggested.toml"]


def _summary(resized: Resized) -> dict[str, Any]:
    content = resized.to_json()
    return {name: content[name] for name in ("out", "error", "parameters", "parameters_before")}


def _toml(files: StoredAdapter, ranks: Mapping[str, int], knee: Point) -> str:
    """Ranks, and alphas such that every scale stays what it was trained with."""
    stabilised = all(piece.recipe.rank_stabilized for piece in pieces(files))
    usual, others, alphas = usual_and_others(
        {piece.name: piece.recipe.at_rank(ranks[piece.name], stabilised) for piece in pieces(files)}
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
    measured = [point for point in curve.points if point.rank > 0]
    with picture(path, title, 7.2, 4.4) as figure:
        axes = figure.subplots()
        kept = axes.twinx()
        axes.axhline(curve.points[0].metric, color="#777777", linewidth=1.2, linestyle=":", label=f"rank 0: {rank_0}")
        values = [point.metric for point in measured]
        axes.plot(range(len(measured)), values, color=COLOURS[0], marker="o", linewidth=2, label=metric)
        if curve.knee is not None:
            _mark_knee(axes, curve, curve.knee, measured)
        axes.set_xticks(range(len(measured)), [str(point.rank) for point in measured])
        style(axes, across="rank of every update", up=metric)
        style(kept, up="energy kept, Σσ²", grid=None, frame=("right", "bottom"))
        energies = [point.energy for point in measured]
        kept.plot(energies, color=COLOURS[5], marker="s", markersize=4, linewidth=1.2, label="energy kept (right)")
        in_per_cent(kept.yaxis)
        kept.set_ylim(0, 1.05)
        legend_below(figure)


def _mark_knee(axes: Any, curve: Curve, knee: Point, measured: Sequence[Point]) -> None:
    """A ring around the knee, and a line at the share of the gain that it has to keep."""
    none, share = curve.points[0].metric, f"{100 * curve.share:g}% of the gain"
    level = none + curve.share * (measured[-1].metric - none)
    axes.axhline(level, color=COLOURS[2], linewidth=1.0, linestyle="--", label=share)
    said = f"knee: rank {knee.rank}, {100 * (knee.gain_share or 0):.0f}% of the gain"
    place = measured.index(knee)
    axes.scatter([place], [knee.metric], s=220, facecolors="none", edgecolors=COLOURS[1], linewidth=2, label=said)
