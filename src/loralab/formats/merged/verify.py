"""Prove that a written folder is the live adapter: reopen the files and compare, logit by logit and bit by bit.

Two checks that fail for different reasons. `compare` opens the folder as any user of transformers would and compares
its logits with the live adapter's on a probe: it finds what is wrong with names, layouts, ties and the config. The live
model adds B·A·x to W·x where the merged one multiplies by a rounded W + B·A, so their logits differ by rounding even if
all is right; how far is measured, not guessed (`rounding_noise`). `check_tensors` reads every written tensor back and
compares it with the value recomputed from the base and the adapter, exactly: it finds the fault that is smaller than
rounding, and needs the memory of one tensor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from loralab.core.adapter import adapters_of
from loralab.core.attach import disabled
from loralab.core.names import unwrapped
from loralab.errors import ModelLoadError, NumericsError, listed
from loralab.files.shards import TensorFolder, same_bits
from loralab.formats.merged.weights import MergedWeights
from loralab.formats.probe import Logits, Probe, base_dtype, logits_of
from loralab.models.quiet import quiet_transformers
from loralab.nn.mode import evaluating
from loralab.nn.tensors import tensor_of
from loralab.progress import tracked

NOISE_MARGIN = 4.0
"""The merged logits may differ from the live ones by this many times the measured effect of rounding."""
LIVE_ROUNDINGS = 4
"""What a live layer rounds on its way where a merged one rounds once: W·x, A·x, B·A·x and the sum."""
ROUNDINGS = 4.0
"""… and in any case by this many roundings of the largest logit, in the precision of the live model."""
_OPENING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)


@dataclass(frozen=True)
class Verification:
    """How near the reopened folder is to the live adapter on the probe."""

    max_abs_logit_error: float
    mean_kl: float
    """Kullback-Leibler divergence of the live from the merged distribution, in nats, mean over positions."""
    argmax_agreement: float
    """Fraction of positions at which both models have the same most likely class."""
    tolerance: float
    """The largest max_abs_logit_error that rounding explains."""
    adapter_effect: float
    """By how much the adapter moves any logit of the base on the probe."""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return self.max_abs_logit_error <= self.tolerance

    @property
    def tells(self) -> bool:
        """Whether the logits could tell the merged model from the base without the adapter."""
        return self.adapter_effect > self.tolerance


def compare(model: PreTrainedModel, adapter: str, folder: Path, probe: Probe) -> Verification:
    """Open the folder as transformers does, in the live model's precision, and compare logits on the probe.

    Needs memory for both models. The live model is left as it was. Raises NumericsError if transformers cannot open
    the folder or does not find all the model's weights in it.
    """
    spacing = _spacing(model, folder)
    with evaluating(model), speaking(model, adapter):
        live = logits_of(model, probe)
        with disabled(model):
            effect = _largest_difference(live, logits_of(model, probe))
        noise = rounding_noise(model, adapter, spacing, probe, live)
    merged = logits_of(reopen(model, folder), probe)
    largest = max(float(logits.abs().max()) for logits in live)
    tolerance = NOISE_MARGIN * noise + ROUNDINGS * torch.finfo(base_dtype(model)).eps * largest
    return Verification(
        _largest_difference(live, merged), _mean_kl(live, merged), _agreement(live, merged), tolerance, effect
    )


def check_tensors(weights: MergedWeights, folder: Path) -> None:
    """Read every written tensor back and compare it with its recomputed value, bit for bit.

    Raises NumericsError naming all that differ or are missing.
    """
    written = TensorFolder(folder)
    try:
        wrong = [key for key in weights.kinds if key not in written.kinds]
        wrong = wrong or [
            key
            for key in tracked(list(weights.kinds), "tensors compared")
            if not same_bits(written.read(key), weights.read(key))
        ]
    except ModelLoadError as error:
        raise NumericsError(f"the merged files do not hold what was written to them: {error}") from error
    if wrong:
        raise NumericsError(
            f"{len(wrong)} of the {len(weights.kinds)} tensors in the merged files are not what base and adapter give: "
            f"{listed(wrong)}"
        )


def rounding_noise(model: PreTrainedModel, adapter: str, spacing: float, probe: Probe, live: Logits) -> float:
    """How far rounding every adapted weight once more, at random, moves any logit of the live model.

    δ·(W + ΔW) is added to each W, with |δ| ≤ half the `spacing` of numbers near 1: as large an error as rounding
    W + ΔW may make. What it does to the logits depends on the model (its depth, its routing, its outliers), so
    it is measured there, with the adapter live; afterwards the very same tensors are back.
    """
    generator = torch.Generator().manual_seed(0)
    adapters = adapters_of(model)
    taken_out = []
    try:
        for path, update in adapters.adapter(adapter).updates.items():
            base = unwrapped(adapters.layers[path])
            with torch.no_grad():
                rounded = {
                    name: _rounded(tensor_of(base, name), D, spacing, generator)
                    for name, D in update.deltas(base).items()
                }
            for name, tensor in rounded.items():
                path, _, leaf = name.rpartition(".")
                owner = base.get_submodule(path)
                taken_out.append((owner, leaf, owner._parameters[leaf]))
                owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        return _largest_difference(live, logits_of(model, probe))
    finally:
        for owner, leaf, original in taken_out:
            owner._parameters[leaf] = original


def reopen(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The folder as a fresh model of the same class, precision, attention and device, in evaluation mode."""
    inner = unwrapped(model)
    assert isinstance(inner, PreTrainedModel)
    own: Any = type(inner)  # with output_loading_info it returns a pair, which transformers' types do not say
    try:
        with quiet_transformers():
            opened, report = own.from_pretrained(
                folder,
                dtype=base_dtype(model),
                attn_implementation=inner.config._attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
            )
    except _OPENING_ERRORS as error:
        raise NumericsError(f"the merged folder cannot be opened by transformers: {error}") from error
    lost = sorted({*report["missing_keys"], *(str(entry[0]) for entry in report["mismatched_keys"])})
    if lost:
        raise NumericsError(f"the merged folder does not hold all of {type(inner).__name__}: {listed(lost)}")
    reopened: PreTrainedModel = opened.to(inner.device).eval()
    return reopened


@contextmanager
def speaking(model: nn.Module, adapter: str) -> Iterator[None]:
    """Within this block the adapter speaks, whatever did before."""
    adapters = adapters_of(model)
    before = adapters.routing.active, adapters.routing.rows
    adapters.route(active=adapters.adapter(adapter).name)
    try:
        yield
    finally:
        adapters.route(*before)


def _rounded(W: Tensor, D: Tensor, spacing: float, generator: torch.Generator) -> Tensor:
    delta = torch.rand(W.shape, generator=generator).sub_(0.5).mul_(spacing).to(W.device)
    return (W + delta * (W + D)).to(W.dtype)


def _spacing(model: PreTrainedModel, folder: Path) -> float:
    """How far apart numbers near 1 are as the files have them, or as the live model rounds them on its longer way."""
    try:
        dtypes = {kind.dtype for kind in TensorFolder(folder).kinds.values() if kind.dtype.is_floating_point}
    except ModelLoadError as error:
        raise NumericsError(f"the merged folder cannot be opened: {error}") from error
    stored = max(torch.finfo(dtype).eps for dtype in dtypes)
    return max(stored, LIVE_ROUNDINGS * torch.finfo(base_dtype(model)).eps)


def _largest_difference(left: Logits, right: Logits) -> float:
    differences = [(a - b).abs().max() for a, b in zip(left, right, strict=True)]
    return float(torch.stack(differences).max())


def _mean_kl(live: Logits, merged: Logits) -> float:
    kl = [
        (a.double().softmax(-1) * (a.double().log_softmax(-1) - b.double().log_softmax(-1))).sum(-1)
        for a, b in zip(live, merged, strict=True)
    ]
    return max(0.0, float(torch.cat(kl).mean()))


def _agreement(live: Logits, merged: Logits) -> float:
    same = [(a.argmax(-1) == b.argmax(-1)).float() for a, b in zip(live, merged, strict=True)]
    return float(torch.cat(same).mean())
