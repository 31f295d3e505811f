"""The spectra of an adapter as files: spectrum.json with every singular value, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loralab.analysis.adapters.deltas import kind_of_module, layer_number
from loralab.analysis.adapters.spectrum import Spectrum, spectra
from loralab.files.whole import write_json
from loralab.formats.stored import read_adapter
from loralab.pictures.lines import Chart, draw_charts

ENERGIES = (0.9, 0.99)


def analyse_spectrum(path: str, out: Path, *, modules: str | None, alpha: float | None) -> dict[str, Any]:
    """Look at every update, write the files, and return the summary that the command line prints."""
    adapter = read_adapter(path, alpha).demand()
    found = list(spectra(adapter, modules))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "spectrum.json", {"adapter": path, "modules": [_whole(each) for each in found]})
    _draw(found, out / "spectrum.png", adapter.name)
    return {
        "adapter": path,
        "modules": [_brief(each) for each in found],
        "kinds": {kind: _mean(these) for kind, these in _by_kind(found).items()},
        "files": [str(out / "spectrum.json"), str(out / "spectrum.png")],
    }


def _brief(spectrum: Spectrum) -> dict[str, Any]:
    return {
        "module": spectrum.name,
        "rank": spectrum.rank,
        "numerical_rank": len(spectrum.sigma_K),
        "effective_rank": spectrum.effective_rank,
        "largest": float(spectrum.sigma_K[0]) if len(spectrum.sigma_K) else 0.0,
        "norm": float(spectrum.sigma_K.norm()),
    } | {f"rank_for_{energy:.0%}".removesuffix("%"): spectrum.rank_for(energy) for energy in ENERGIES}


def _whole(spectrum: Spectrum) -> dict[str, Any]:
    return _brief(spectrum) | {"singular_values": spectrum.sigma_K.tolist(), "energy": spectrum.energy_K.tolist()}


def _by_kind(found: Sequence[Spectrum]) -> dict[str, list[Spectrum]]:
    kinds: dict[str, list[Spectrum]] = {}
    for each in found:
        kinds.setdefault(kind_of_module(each.name), []).append(each)
    return kinds


def _mean(found: Sequence[Spectrum]) -> dict[str, float]:
    numbers = [_brief(each) for each in found]
    names = ("rank", "effective_rank", "rank_for_90", "rank_for_99", "norm")
    return {"modules": len(found)} | {name: sum(each[name] for each in numbers) / len(numbers) for name in names}


def _draw(found: Sequence[Spectrum], path: Path, name: str) -> None:
    kinds = _by_kind(found)
    energy = {kind: _curve(these) for kind, these in kinds.items()}
    draw_charts(
        [
            Chart(
                "energy kept, mean of the modules (band: least and most)",
                "rank kept",
                "share of ‖ΔW‖²",
                {kind: (ranks, mean) for kind, (ranks, mean, _, _) in energy.items()},
                {kind: (least, most) for kind, (_, _, least, most) in energy.items()},
            ),
            Chart(
                "directions in use",
                "block",
                "effective rank",
                {
                    kind: ([_place(each, number) for number, each in enumerate(these)], _effective(these))
                    for kind, these in kinds.items()
                },
            ),
        ],
        path,
        f"Singular values of {name}",
    )


def _effective(found: Sequence[Spectrum]) -> list[float]:
    return [each.effective_rank for each in found]


def _place(spectrum: Spectrum, number: int) -> float:
    """The block's number, or the place among its kind for modules outside blocks."""
    layer = layer_number(spectrum.name)
    return float(number if layer is None else layer)


def _curve(found: Sequence[Spectrum]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Ranks, and the mean, least and most energy that each keeps; an update of fewer values has all of it."""
    longest = max(len(each.sigma_K) for each in found)
    padded = [[*each.energy_K.tolist(), *[1.0] * (longest - len(each.sigma_K))] for each in found]
    columns = list(zip(*padded, strict=True))
    ranks = [float(rank) for rank in range(1, longest + 1)]
    return ranks, [sum(c) / len(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns]
