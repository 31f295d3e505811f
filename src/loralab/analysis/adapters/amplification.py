"""By how much an update amplifies directions that the base has but does not emphasise (paper §7.3, Table 7).

    ‖Uᵀ·W·V‖_F        W seen in the first r directions of ΔW, of W itself, and of random matrices
    amplification     ‖ΔW‖_F / ‖Uᵀ·W·V‖_F with the directions of ΔW

U [O, r] and V [I, r] hold singular vectors as columns (the paper writes V's as rows). Random directions see about
r·‖W‖_F/√(O·I), which is (r/d)·‖W‖_F for a square matrix.

Written: amplification.json with a row of Table 7 for each module, and a picture.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from loralab.analysis.adapters.deltas import base_matrix, by_kind, deltas, places, random_basis
from loralab.errors import SpecError
from loralab.files.whole import write_json
from loralab.formats.read import read_adapter
from loralab.formats.stored import StoredAdapter, StoredUpdate
from loralab.pictures.panels import Chart, draw_charts

PAPER = "GPT-3, layer 48, W_q: 21.5 with r=4, 1.9 with r=64 (Table 7)"
KINDS_SHOWN = 2
SEEN_IN = {"ΔW": "in_delta", "W": "in_base", "random": "in_random"}
COLUMNS = ("delta_norm", "in_delta", "in_base", "in_random", "base_norm", "amplification")


@dataclass(frozen=True)
class Amplification:
    """One row of Table 7."""

    name: str
    rank: int
    """r: how many directions are looked at."""
    delta_norm: float
    """‖ΔW‖_F."""
    base_norm: float
    """‖W‖_F."""
    in_delta: float
    """‖UᵀWV‖_F in the directions of ΔW."""
    in_base: float
    """In the first directions of W: the largest that it can be."""
    in_random: float
    """In random directions."""

    @property
    def factor(self) -> float:
        """‖ΔW‖_F / ‖UᵀWV‖_F; infinite where W has nothing in the update's directions."""
        return self.delta_norm / self.in_delta if self.in_delta else math.inf


def amplifications(
    adapter: StoredAdapter, model: nn.Module, *, rank: int | None = None, modules: str | None = None, seed: int = 0
) -> Iterator[Amplification]:
    """A row for each module, one after another. `rank` looks at fewer directions than the update has.

    Raises SpecError for modules or shapes that the model does not have, an update that is zero, and a rank below 1.
    """
    if rank is not None and rank < 1:
        raise SpecError(f"rank {rank}: must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    for delta in deltas(adapter, modules):
        W_OI = base_matrix(model, delta.part_of or delta.name, delta.shape, delta.rows)
        yield amplification(delta, W_OI, rank, generator)


def amplification(delta: StoredUpdate, W_OI: Tensor, rank: int | None, generator: torch.Generator) -> Amplification:
    """The row of one module, whose base weight is W."""
    U, sigma, V = delta.svd()
    if not len(sigma):
        raise SpecError(f"the update of {delta.name} is zero: it has no directions; leave it out with --modules")
    r = min(rank or len(sigma), len(sigma))
    return Amplification(
        name=delta.name,
        rank=r,
        delta_norm=float(torch.linalg.norm(sigma)),
        base_norm=float(torch.linalg.norm(W_OI)),
        in_delta=seen(U[:, :r], W_OI, V[:, :r]),
        in_base=strongest(W_OI, r),
        in_random=seen(random_basis((len(W_OI), r), generator), W_OI, random_basis((W_OI.shape[1], r), generator)),
    )


def seen(U_OR: Tensor, W_OI: Tensor, V_IR: Tensor) -> float:
    """‖Uᵀ·W·V‖_F."""
    return float(torch.linalg.norm(U_OR.T @ W_OI @ V_IR))


def strongest(W_OI: Tensor, rank: int) -> float:
    """√(σ₁² + … + σ_r²) of W, from the eigenvalues of the smaller of its Gram matrices."""
    gram = W_OI @ W_OI.T if len(W_OI) <= W_OI.shape[1] else W_OI.T @ W_OI
    return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-rank:].sum()), 0.0))


def analyse_amplification(
    path: str, model: nn.Module, out: Path, *, rank: int | None, modules: str | None, alpha: float | None, seed: int
) -> dict[str, Any]:
    """Measure every module, write the files, and return the summary that the command line prints."""
    adapter = read_adapter(path, alpha).demand()
    results = list(amplifications(adapter, model, rank=rank, modules=modules, seed=seed))
    out.mkdir(parents=True, exist_ok=True)
    answer = {
        "adapter": path,
        "modules": [_row(each) for each in results],
        "kinds": {kind: _median(these) for kind, these in by_kind(results).items()},
        "paper": PAPER,
        "files": [str(out / "amplification.json"), str(out / "amplification.png")],
    }
    write_json(out / "amplification.json", answer)
    _draw(results, out / "amplification.png", adapter.name)
    return answer


def _row(each: Amplification) -> dict[str, Any]:
    return asdict(each) | {"amplification": each.factor}


def _median(results: Sequence[Amplification]) -> dict[str, float]:
    rows = [_row(each) for each in results]
    return {"modules": len(results), "rank": median(each.rank for each in results)} | {
        name: median(row[name] for row in rows) for name in COLUMNS
    }


def _draw(results: Sequence[Amplification], path: Path, name: str) -> None:
    kinds = by_kind(results)
    of_base = [
        Chart(f"{kind}: the base in the first r directions of …", "block", "‖UᵀWV‖", lines, logarithmic=True)
        for kind, these in list(kinds.items())[:KINDS_SHOWN]
        for lines in [
            {label: (places(these), [getattr(each, column) for each in these]) for label, column in SEEN_IN.items()}
        ]
    ]
    amplified = {kind: (places(these), [each.factor for each in these]) for kind, these in kinds.items()}
    first = Chart("amplification of the update's directions", "block", "‖ΔW‖ / ‖UᵀWV‖", amplified, logarithmic=True)
    draw_charts([first, *of_base], path, f"What {name} amplifies")
