"""All that is wrong with an adapter, at once: what `analyse doctor` says, and `inspect` too.

What its numbers alone say: updates that are zero, out of line, or stored with too few bits. And what only the base
model can tell: whether it loads, acts, is too large, breaks a tie.
"""

import math
import statistics
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.adapter import adapters_on
from loralab.core.attach import activate, detach, disabled, rows
from loralab.core.names import modules_by_path, unwrapped
from loralab.core.updates.update import WHOLE
from loralab.errors import FingerprintError, LoralabError, SpecError, some
from loralab.extras import transformers
from loralab.formats.doctor.config import config_findings
from loralab.formats.doctor.servers import peer_findings
from loralab.formats.load import put_stored
from loralab.formats.probe import logits_of, make_probe
from loralab.formats.read import read_adapter
from loralab.formats.stored import AGAIN, UNEXPECTED, Finding, Severity, StoredAdapter, StoredUpdate, worst_first
from loralab.methods.beside import tied_paths
from loralab.nn.mode import evaluating
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


# -- by the numbers alone ---------------------------------------------------------------------------------------------

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


# -- with the base model ----------------------------------------------------------------------------------------------

PROBED = "loralab-inspected"


def logit_change(model: nn.Module, stored: StoredAdapter, allow_other_base: bool = False) -> float:
    """max |logits with the adapter − logits of the base| on the fixed probe; the adapter is taken off again.

    One that waits for its invocation (aLoRA), which the probe does not hold, is looked at as it acts after it.
    """
    inner = unwrapped(model)
    if not isinstance(inner, transformers.PreTrainedModel):
        raise SpecError(
            f"no probe is known for {type(inner).__name__}, which is no transformers model: compare its outputs "
            "yourself, under activate() and disabled()"
        )
    probe, before = make_probe(inner), adapters_on(model).routing.active
    put_stored(model, stored, PROBED, allow_other_base=allow_other_base)
    try:
        with evaluating(model):
            with _from_the_first_position(model):
                adapted = logits_of(inner, probe)
            with disabled(model):
                base = logits_of(inner, probe)
    finally:
        detach(model, PROBED)
        if before is not None:
            activate(model, before)
    return max(float((one - other).abs().max()) for one, other in zip(adapted, base, strict=True))


def _from_the_first_position(model: nn.Module) -> AbstractContextManager[None]:
    waits = adapters_on(model).adapter(PROBED).invocation
    return rows(model, [PROBED], starts=[0]) if waits else nullcontext()  # the probe is of one sequence per call


BASE = "base model"
TOO_LARGE = 1.0
"""‖ΔW‖ over ‖W‖ from which the update outweighs what was learned before."""


def base_findings(stored: StoredAdapter, model: nn.Module, allow_other_base: bool = False) -> list[Finding]:
    """Whether the model's weights are those that loralab.json says the adapter was trained on."""
    if stored.sidecar is None:
        return []
    recorded = stored.sidecar.fingerprint
    try:
        recorded.check(recorded.retaken(model))
    except FingerprintError as problem:
        severity: Severity = "note" if allow_other_base else "error"
        return [Finding(severity, BASE, str(problem), "take the base that it was trained on")]
    return []


def loading_findings(stored: StoredAdapter, model: nn.Module) -> list[Finding]:
    """Try it on the model, strictly, whatever its base was; the model is afterwards as it was."""
    if stored.reading:
        return []  # what keeps it from being loaded is said already
    try:
        change = _change(model, stored)
    except LoralabError as problem:
        return [Finding("error", BASE, str(problem), "correct what is listed, or give the right base")]
    except UNEXPECTED as problem:
        what = f"loading it fails where it should not: {type(problem).__name__}: {problem}; a value is of a wrong type"
        return [Finding("error", BASE, what, AGAIN)]
    if change == 0.0:
        what = "no effect: with the adapter the model computes exactly what the base computes"
        return [Finding("error", BASE, what, "train it, or see whether it is of another base")]
    if change is not None and math.isnan(change):
        what = "with the adapter the model's logits are NaN"
        return [Finding("error", BASE, what, "go back to an earlier checkpoint, or lower alpha")]
    return []


def _change(model: nn.Module, stored: StoredAdapter) -> float | None:
    """The largest change of a logit; of a model without a known probe only whether the adapter loads."""
    if isinstance(unwrapped(model), transformers.PreTrainedModel):
        return logit_change(model, stored, allow_other_base=True)
    put_stored(model, stored, PROBED, allow_other_base=True)
    detach(model, PROBED)
    return None


def weight_findings(stored: StoredAdapter, model: nn.Module) -> list[Finding]:
    """Updates that outweigh their weight, and modules whose weight is another module's too."""
    by_path = modules_by_path(model)
    large = {}
    for pair in tracked(stored.entries if stored.alpha_is_known else (), "updates held against their weights"):
        weight = _weight(by_path, pair)
        if weight is not None and (ratio := pair.delta_norm() / max(_norm(weight), 1e-30)) > TOO_LARGE:
            large[f"{pair.name} ({ratio:.3g} times)"] = ratio
    findings = _ties(stored, model)
    if large:
        largest = some(sorted(large, key=large.__getitem__, reverse=True))
        what = f"{len(large)} updates are larger than the weight itself, by ‖ΔW‖/‖W‖: {largest}"
        advice = "check alpha and the learning rate, and what the model forgot: loralab eval with and without it"
        findings.append(Finding("warning", stored.where, what, advice))
    return findings


def _weight(by_path: dict[str, nn.Module], pair: StoredUpdate) -> Tensor | None:
    """The base's weight that a pair updates, where it updates the whole of one."""
    held = getattr(by_path.get(pair.name), WHOLE, None)
    is_plain = isinstance(held, Tensor) and held.is_floating_point()  # not quantised
    return held if is_plain and pair.kind in ("linear", "embedding", "conv") else None


def _norm(weight: Tensor) -> float:
    return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32))


def _ties(stored: StoredAdapter, model: nn.Module) -> list[Finding]:
    ties = tied_paths(model)
    adapted = [pair.name for pair in stored.entries] + [key.rpartition(".")[0] for key in stored.others]
    shared = [f"{path} with {', '.join(ties[path])}" for path in dict.fromkeys(adapted) if path in ties]
    what = f"an adapted weight is shared: {some(shared)}; the update applies to the one alone, and merging unties them"
    return [Finding("warning", BASE, what, "adapt neither or mean it: after a merge both are stored")] if shared else []
