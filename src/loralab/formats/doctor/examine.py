"""All that is wrong with an adapter, at once: what `analyse doctor` says, and `inspect` too.

And what its numbers alone say: updates that are zero, out of line, or stored with too few bits.
"""

import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loralab.errors import some
from loralab.formats.doctor.config import config_findings
from loralab.formats.doctor.model import base_findings, loading_findings, weight_findings
from loralab.formats.doctor.servers import peer_findings
from loralab.formats.read import read_adapter
from loralab.formats.stored import AGAIN, Finding, StoredAdapter, StoredUpdate, worst_first
from loralab.progress import tracked


@dataclass(frozen=True)
class Diagnosis:
    """The findings, the worst first."""

    adapter: str
    modules: int
    """With whole low-rank updates."""
    tensors: int
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether there is no error among the findings."""
        return all(each.severity != "error" for each in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "healthy": self.healthy}


def examine(
    path: str | Path, model: nn.Module | None = None, *, alpha: float | None = None, allow_other_base: bool = False
) -> Diagnosis:
    """Examine an adapter folder or a loralib checkpoint, and with the model whether and how it acts on it.

    Damage is a finding, never an error; only NotFoundError is raised, where there is no adapter, and SpecError for
    an `alpha` that a folder itself says. The model is afterwards as it was.
    """
    stored = read_adapter(path, alpha)
    loading = []
    if model is not None:
        loading = [*base_findings(stored, model, allow_other_base), *loading_findings(stored, model)]
    findings = worst_first([*stored.findings, *loading, *_findings(stored, model)])
    return Diagnosis(str(path), len(stored.entries), len(stored.named), findings)


def findings_beside_loading(stored: StoredAdapter, model: nn.Module | None) -> list[Finding]:
    """What `examine` finds without loading the adapter onto the model, for who has done that already."""
    return worst_first([*stored.findings, *_findings(stored, model)])


def _findings(stored: StoredAdapter, model: nn.Module | None) -> list[Finding]:
    numbers = [*_dead(stored, stored.updates), *_out_of_line(stored, stored.updates), *_dtypes(stored)]
    on_model = [] if model is None else weight_findings(stored, model)
    return [*numbers, *config_findings(stored), *on_model, *peer_findings(stored, model)]


# -- by the numbers alone ------------------------------------------------------------------------------------------

OUT_OF_LINE = 10.0
"""‖ΔW‖ over the median of modules of the same name; within 4 in the adapters trained for this package's tests."""
_FEWEST = 4
"""A median of fewer says nothing."""


def _dead(stored: StoredAdapter, pairs: list[StoredUpdate]) -> list[Finding]:
    dead = [pair.name for pair in pairs if pair.is_dead or pair.scale == 0]
    if dead and len(dead) == len(pairs) and not stored.others:
        what = f"all {len(dead)} updates are zero: the adapter does nothing"
        advice = "train it: it is fresh, or no gradient reached it"
        return [Finding("error", stored.where, what, advice)]
    findings = []
    if dead:
        what = f"{len(dead)} of {len(pairs)} updates are zero, so these modules are not changed: {some(dead)}"
        findings.append(Finding("warning", stored.where, what, "see whether training reached these modules"))
    if zero := stored.idle_insertions:
        what = f"{len(zero)} tensors of inserted layers or prefixes are zero throughout: {some(zero)}"
        findings.append(Finding("warning", stored.where, what, "see whether training reached them"))
    return findings


def _out_of_line(stored: StoredAdapter, pairs: list[StoredUpdate]) -> list[Finding]:
    """‖ΔW‖ against the median of the modules that bear the same name in other layers."""
    alive = [pair for pair in pairs if not pair.is_dead and pair.scale]
    norms = {pair.name: pair.delta_norm() for pair in tracked(alive, "updates examined")}
    large, small = {}, {}
    for name, norm in norms.items():
        alike = [each for other, each in norms.items() if other.rpartition(".")[2] == name.rpartition(".")[2]]
        ratio = norm / statistics.median(alike)
        if len(alike) >= _FEWEST and ratio > OUT_OF_LINE:
            large[f"{name} ({ratio:.0f} times)"] = ratio
        elif len(alike) >= _FEWEST and ratio < 1 / OUT_OF_LINE:
            small[f"{name} ({ratio:.1g} times)"] = ratio
    findings = []
    if large:
        what = (
            f"‖ΔW‖ far above the median of modules of the same name: {some(sorted(large, key=large.__getitem__)[::-1])}"
        )
        findings.append(Finding("warning", stored.where, what, "the training may have diverged there: see its loss"))
    if small:
        what = f"‖ΔW‖ far below the median of modules of the same name: {some(sorted(small, key=small.__getitem__))}"
        findings.append(Finding("note", stored.where, what, "these modules hardly learned; they may need no adapter"))
    return findings


def _dtypes(stored: StoredAdapter) -> list[Finding]:
    count = Counter(str(each.dtype).removeprefix("torch.") for pair in stored.entries for each in (pair.A, pair.B))
    whole = [key for key, each in stored.named.items() if "lora_" in key and not each.is_floating_point()]
    findings = []
    if whole:
        findings.append(Finding("error", stored.where, f"factors are not floating-point numbers: {some(whole)}", AGAIN))
    elif len(count) > 1:
        what = "factors are of different dtypes: " + ", ".join(f"{number} in {name}" for name, number in count.items())
        findings.append(
            Finding("warning", stored.where, what, "find out which step cast some of them; save in float32")
        )
    elif count and next(iter(count)) in ("float16", "bfloat16"):
        name = next(iter(count))
        bits = {"float16": 11, "bfloat16": 8}[name]
        what = f"factors are stored in {name} ({bits} significant bits); LoRA trains and stores float32"
        findings.append(Finding("note", stored.where, what, "if they were trained in it, small updates were lost"))
    over = [key for key, each in stored.named.items() if each.dtype == torch.float16 and _near_overflow(each)]
    if over:
        what = f"values near the largest of float16: {some(over)}"
        findings.append(Finding("warning", stored.where, what, "store it in float32 or bfloat16"))
    return findings


def _near_overflow(tensor: torch.Tensor) -> bool:
    return bool(tensor.numel()) and float(tensor.abs().max()) > torch.finfo(torch.float16).max / 2
