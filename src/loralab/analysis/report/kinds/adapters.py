"""The drawings of what an adapter learned, from the JSON that the analyses of `analysis/adapters` write."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from loralab.analysis.report.section import Content
from loralab.metrics.scores import bounds
from loralab.nn.module_names import kind_of_module, layer_index
from loralab.pictures.svg.cells import Cells, draw_cells
from loralab.pictures.svg.curves import Curves, Series, draw_curves
from loralab.pictures.svg.drawing import Drawing
from loralab.pictures.svg.rows import Lane, Mark, Rows, draw_rows

MOST_BARS = 24
KINDS_SHOWN = 3

Drawings = Sequence[Drawing | None]


def _by_kind(rows: Sequence[Content], name: str) -> dict[str, list[Content]]:
    kinds: dict[str, list[Content]] = {}
    for row in rows:
        kinds.setdefault(kind_of_module(row[name]), []).append(row)
    return kinds


def _places(rows: Sequence[Content], name: str) -> list[float]:
    numbers = [layer_index(row[name]) for row in rows]
    return [float(at if number is None else number) for at, number in enumerate(numbers)]


def _over_blocks(rows: Sequence[Content], name: str, column: str, series: str) -> Series:
    values = [float(row[column]) for row in rows]
    return Series(series, sorted(zip(_places(rows, name), values, strict=True)))


def _spectrum(content: Content) -> Drawings:
    kinds = _by_kind(content["modules"], "module")
    energy = [_energy(kind, rows) for kind, rows in kinds.items()]
    used = [_over_blocks(rows, "module", "effective_rank", kind) for kind, rows in kinds.items()]
    return [
        draw_curves(
            Curves("Energy kept by the first directions, mean and extremes of the modules", "rank kept",
                   "share of ‖ΔW‖²", energy, whole=True, bounds=(0, 1))
        ),
        draw_curves(Curves("Effective rank by block", "block", "effective rank", used, whole=True)),
    ]  # fmt: skip


def _energy(kind: str, rows: Sequence[Content]) -> Series:
    """An update of fewer values has all of its energy from there on."""
    longest = max((len(row["energy"]) for row in rows), default=0)
    padded = [[*row["energy"], *[1.0] * (longest - len(row["energy"]))] for row in rows]
    columns = list(zip(*padded, strict=True))
    points = [(float(rank), sum(each) / len(each)) for rank, each in enumerate(columns, start=1)]
    return Series(kind, points, [(min(each), max(each)) for each in columns], band=True)


def _amplification(content: Content) -> Drawings:
    kinds = _by_kind(content["modules"], "name")
    factors = [_over_blocks(rows, "name", "amplification", kind) for kind, rows in kinds.items()]
    first = Curves(
        "Amplification of the update's directions, ‖ΔW‖ / ‖UᵀWV‖", "block", "factor", factors, whole=True,
        ratios_up=True,
    )  # fmt: skip
    return [draw_curves(first), *(_base_within(kind, rows) for kind, rows in list(kinds.items())[:KINDS_SHOWN])]


def _base_within(kind: str, rows: Sequence[Content]) -> Drawing | None:
    seen_in = {"of ΔW": "in_delta", "of W": "in_base", "random": "in_random"}
    if not all(column in row for row in rows for column in seen_in.values()):
        return None
    series = [_over_blocks(rows, "name", column, name) for name, column in seen_in.items()]
    title = f"{kind}: the base in the first r directions"
    return draw_curves(Curves(title, "block", "‖UᵀWV‖", series, whole=True, ratios_up=True))


def _rank(content: Content) -> Drawings:
    metric, points = content["metric"], [point for point in content["curve"] if point["rank"] > 0]
    at_zero = next((point["metric"] for point in content["curve"] if point["rank"] == 0), None)
    levels = {} if at_zero is None else {"rank 0: without the updates": float(at_zero)}
    knee = next((at for at, point in enumerate(points) if point["rank"] == content.get("knee")), None)
    marked = None if knee is None else (float(knee), float(points[knee]["metric"]))
    places = [str(point["rank"]) for point in points]
    said = "" if knee is None else f" (ring: rank {points[knee]['rank']} is enough)"
    measured = Series(metric, [(float(at), float(point["metric"])) for at, point in enumerate(points)])
    kept = Series("energy", [(float(at), float(point["energy"])) for at, point in enumerate(points)])
    title = f"Held-out {metric} at each rank{said}"
    return [
        draw_curves(
            Curves(title, "rank", metric, [measured], levels, places, marked, bounds=bounds(metric))
        ),
        draw_curves(Curves("Energy that each rank keeps", "rank", "share of Σσ²", [kept], {}, places, bounds=(0, 1))),
    ]  # fmt: skip


def _matrices(content: Content) -> Drawings:
    return [
        _parts(by, [row for row in content["parts"] if row["by"] == by], content["metric"]) for by in _groups(content)
    ]


def _groups(content: Content) -> list[str]:
    return list(dict.fromkeys(row["by"] for row in content["parts"]))


def _parts(by: str, rows: Sequence[Content], metric: str) -> Drawing | None:
    shares = [row for row in rows if row["lost_share"] is not None and row["alone_share"] is not None][:MOST_BARS]
    drawn = [
        Lane(row["part"], [
            Mark(100 * row["lost_share"], said=_per_cent(row["lost_share"])),
            Mark(100 * row["alone_share"], said=_per_cent(row["alone_share"]), series=5),
        ])
        for row in shares
    ]  # fmt: skip
    title = f"Share of the gain in {metric}, by {by}"
    legend = {0: "lost when switched off", 5: "reached by it alone"}
    return draw_rows(Rows(title, "% of the whole gain", drawn, legend, bars=True, origin=0.0))


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f}%".replace("-", "−")


def _subspace(content: Content) -> Drawings:
    return [drawing for side in ("right", "left") for drawing in _maps(content, side)]


def _maps(content: Content, side: str) -> Iterator[Drawing | None]:
    """Of each kind the first and the last module, and what random directions of the last would share."""
    here = [row for row in content["modules"] if row["side"] == side]
    chosen = [
        [rows[at] for at in dict.fromkeys((0, len(rows) - 1))]
        for rows in list(_by_kind(here, "module").values())[:KINDS_SHOWN]
    ]
    values = [value for rows in chosen for row in rows for line in row["phi"] for value in line]
    highest = max(0.5, *values) if values else 0.5
    factor = {"right": "inputs", "left": "outputs"}[side]
    for rows in chosen:
        for row in rows:
            yield _map(f"{_where(row)}: shared directions of {factor}, φ(i, j)", row, "phi", highest, content)
        if "random" in rows[-1]:
            yield _map(f"{_where(rows[-1])}: random directions share as much", rows[-1], "random", highest, content)


def _where(row: Content) -> str:
    block = layer_index(row["module"])
    return kind_of_module(row["module"]) + ("" if block is None else f", block {block}")


def _map(title: str, row: Content, name: str, highest: float, content: Content) -> Drawing | None:
    first, second = content["compared"]
    grid = row[name]
    columns = list(range(1, len(grid[0]) + 1)) if grid else []
    rows = row.get("i") or list(range(1, len(grid) + 1))
    return draw_cells(Cells(title, f"first j of {second}", f"first i of {first}", grid, highest, columns, rows))


def _resize(content: Content) -> Drawings:
    worst = sorted(content["modules"], key=lambda row: -row["error"])[:MOST_BARS]
    rows = [Lane(row["module"], [Mark(float(row["error"]))]) for row in worst]
    return [draw_rows(Rows("What the cut lost, the worst modules", "share of ‖ΔW‖", rows, bars=True, origin=0.0))]


def _forgetting(content: Content) -> Drawings:
    def row(name: str, before: float, after: float, error: float | None) -> Lane:
        said = f"{after - before:+.3g}".replace("-", "−") + ("" if error is None else f" ± {error:.2g}")
        return Lane(name, [Mark(before, series=6), Mark(after, said=said, series=1)])

    legend = {6: "base", 1: "with the adapter"}
    texts = [row(t["text"], t["loss_before"], t["loss_after"], t["standard_error"]) for t in content["texts"]]
    metric = str(content.get("metric", "loss"))
    task = [row(str(content.get("task")), content["without_adapter"], content["with_adapter"], None)]
    return [
        draw_rows(Rows(f"Gained: {metric} of the task", metric, task, legend, chained=True, bounds=bounds(metric))),
        draw_rows(Rows("Forgotten: loss on other text", "loss, nats per token", texts, legend, chained=True)),
    ]  # fmt: skip


ADAPTER_DRAWINGS: Mapping[str, Callable[[Content], Drawings]] = {
    "spectrum": _spectrum,
    "amplification": _amplification,
    "rank": _rank,
    "matrices": _matrices,
    "subspace": _subspace,
    "resize": _resize,
    "forgetting": _forgetting,
}
