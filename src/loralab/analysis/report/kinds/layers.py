"""The drawings of what of a model is needed, from the JSON that the analyses of `analysis/layers` write."""

from collections.abc import Callable, Mapping, Sequence

from loralab.analysis.report.section import Content, ResultTable
from loralab.metrics.scores import bounds
from loralab.pictures.svg.cells import Cells, draw_cells
from loralab.pictures.svg.curves import Curves, Series, draw_curves
from loralab.pictures.svg.drawing import Drawing, figure_text
from loralab.pictures.svg.rows import Lane, Mark, Rows, draw_rows

Drawings = Sequence[Drawing | None]

STATES = ("before", "after", "healed", "dropped", "replaced", "distilled")
"""Of a model whose blocks were dropped or replaced, in this order."""


def _angular(content: Content) -> Drawings:
    distances, blocks = content["D"], len(content["D"]) - 1
    grid = [
        [distances[start][start + count] if start + count <= blocks else None for start in range(blocks)]
        for count in range(1, blocks + 1)
    ]
    best = [(row["n"] - 1, row["start"]) for row in content["best"]]
    highest = max((value for row in grid for value in row if value is not None), default=1.0)
    least = [(float(row["n"]), float(row["distance"])) for row in content["best"]]
    return [
        draw_cells(
            Cells("Distance d(ℓ, n) across n blocks (ring: least of its n)", "ℓ: first block to drop", "n blocks", grid,
                  highest, range(blocks), range(1, blocks + 1), from_below=True, marked=best)
        ),
        draw_curves(
            Curves("The least distance of each n", "n: how many blocks", "d(ℓ*, n)", [Series("distance", least)],
                   whole=True, bounds=(0, 1))
        ),
    ]  # fmt: skip


def _linearity(content: Content) -> Drawings:
    def lines(columns: Mapping[str, str]) -> list[Series]:
        return [
            Series(
                name, [(float(row["ell"]), float(row[key])) for row in content["scores"] if row.get(key) is not None]
            )
            for key, name in columns.items()
        ]

    whole = lines({"ls_main": "any affine map", "lo": "a scaled rotation"})
    added = lines({"ls_delta": "fitted tokens", "r2_heldout_delta": "held-out tokens"})
    share = [(float(row["ell"]), row["norm_delta"] / row["norm_h"]) for row in content["scores"] if row["norm_h"]]
    up = "share that a map explains"
    return [
        draw_curves(Curves("The stream after a block, from before it", "block", up, whole, whole=True)),
        draw_curves(Curves("What the block adds, from before it", "block", up, added, whole=True)),
        draw_curves(Curves("How much a block adds, ‖added‖ / ‖stream‖", "block", "ratio", [Series("ratio", share)],
                           whole=True, ratios_up=all(value > 0 for _, value in share))),
    ]  # fmt: skip


def _measures(content: Content) -> Drawings:
    """The perplexity of each state, and the task's last metric."""
    states = {name: content[name] for name in STATES if isinstance(content.get(name), dict)}
    metric = next((list(each["metrics"])[-1:] for each in states.values()), [])
    return [
        _bars("Perplexity on held-out text (lower is better)", "perplexity",
              {name: each["perplexity"] for name, each in states.items()}),
        *(
            _bars(f"{name} of the task", name, {state: each["metrics"][name] for state, each in states.items()})
            for name in metric
        ),
    ]  # fmt: skip


def states_table(content: Content) -> ResultTable | None:
    """What was measured of the model before and after its blocks were dropped or replaced; None for other analyses."""
    states = {name: content[name] for name in STATES if isinstance(content.get(name), dict)}
    if not all("perplexity" in each for each in states.values()) or not states:
        return None
    metrics = list(dict.fromkeys(name for each in states.values() for name in each.get("metrics", {})))
    rows = [
        [name, each["perplexity"], each.get("task_loss"), *(each.get("metrics", {}).get(metric) for metric in metrics)]
        for name, each in states.items()
    ]
    return ResultTable.of("Before and after", ["model", "perplexity", "loss of the task", *metrics], rows)


def _bars(title: str, metric: str, values: Mapping[str, float]) -> Drawing | None:
    rows = [Lane(name, [Mark(float(value), said=figure_text(value))]) for name, value in values.items()]
    far = min(values.values()) > 0 and max(values.values()) > 20 * min(values.values())
    if far:
        return draw_rows(Rows(title, f"{metric}, on a scale of ratios", rows, ratios=True))
    return draw_rows(Rows(title, metric, rows, bars=True, origin=0.0, bounds=bounds(metric)))


LAYER_DRAWINGS: Mapping[str, Callable[[Content], Drawings]] = {
    "angular": _angular,
    "linearity": _linearity,
    "prune": _measures,
    "linearize": _measures,
}
