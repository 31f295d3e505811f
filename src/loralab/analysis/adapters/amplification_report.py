"""The amplification of an adapter's directions as files: Table 7 of this model, and a picture."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from loralab.analysis.adapters.amplification import Amplification, amplifications
from loralab.analysis.adapters.deltas import kind_of_module, layer_number
from loralab.files.whole import write_json
from loralab.formats.stored import read_adapter
from loralab.pictures.lines import Chart, draw_charts

PAPER = "GPT-3, layer 48, W_q: 21.5 with r=4, 1.9 with r=64 (Table 7)"
KINDS_SHOWN = 2
SEEN_IN = {"ΔW": "in_delta", "W": "in_base", "random": "in_random"}
COLUMNS = ("delta_norm", "in_delta", "in_base", "in_random", "base_norm", "amplification")


def analyse_amplification(
    path: str, model: nn.Module, out: Path, *, rank: int | None, modules: str | None, alpha: float | None, seed: int
) -> dict[str, Any]:
    """Measure every module, write the files, and return the summary that the command line prints."""
    adapter = read_adapter(path, alpha).demand()
    found = list(amplifications(adapter, model, rank=rank, modules=modules, seed=seed))
    out.mkdir(parents=True, exist_ok=True)
    answer = {
        "adapter": path,
        "modules": [_row(each) for each in found],
        "kinds": {kind: _median(these) for kind, these in _by_kind(found).items()},
        "paper": PAPER,
        "files": [str(out / "amplification.json"), str(out / "amplification.png")],
    }
    write_json(out / "amplification.json", answer)
    _draw(found, out / "amplification.png", adapter.name)
    return answer


def _row(each: Amplification) -> dict[str, Any]:
    return asdict(each) | {"amplification": each.factor}


def _by_kind(found: Sequence[Amplification]) -> dict[str, list[Amplification]]:
    kinds: dict[str, list[Amplification]] = {}
    for each in found:
        kinds.setdefault(kind_of_module(each.name), []).append(each)
    return kinds


def _median(found: Sequence[Amplification]) -> dict[str, float]:
    rows = [_row(each) for each in found]
    return {"modules": len(found), "rank": median(each.rank for each in found)} | {
        name: median(row[name] for row in rows) for name in COLUMNS
    }


def _draw(found: Sequence[Amplification], path: Path, name: str) -> None:
    kinds = _by_kind(found)
    places = {
        kind: [
            float(number if (layer := layer_number(each.name)) is None else layer) for number, each in enumerate(these)
        ]
        for kind, these in kinds.items()
    }
    of_base = [
        Chart(f"{kind}: the base in the first r directions of …", "block", "‖UᵀWV‖", lines, logarithmic=True)
        for kind, these in list(kinds.items())[:KINDS_SHOWN]
        for lines in [
            {label: (places[kind], [getattr(each, column) for each in these]) for label, column in SEEN_IN.items()}
        ]
    ]
    amplified = {kind: (places[kind], [each.factor for each in these]) for kind, these in kinds.items()}
    first = Chart("amplification of the update's directions", "block", "‖ΔW‖ / ‖UᵀWV‖", amplified, logarithmic=True)
    draw_charts([first, *of_base], path, f"What {name} amplifies")
