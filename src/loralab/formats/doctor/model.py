"""What only the base model can tell about an adapter: whether it loads, acts, is too large, breaks a tie."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from loralab.core.adapter import adapters_on
from loralab.core.attach import activate, detach, disabled, rows
from loralab.core.names import modules_by_path, unwrapped
from loralab.core.updates.update import WHOLE
from loralab.errors import FingerprintError, LoralabError, SpecError, some
from loralab.extras import transformers
from loralab.formats.load import put_stored
from loralab.formats.probe import logits_of, make_probe
from loralab.formats.stored import AGAIN, UNEXPECTED, Finding, Severity, StoredAdapter, StoredUpdate
from loralab.methods.beside import tied_paths
from loralab.nn.mode import evaluating
from loralab.progress import tracked

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
