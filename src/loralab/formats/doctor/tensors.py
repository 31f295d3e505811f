"""What an adapter's numbers say about it: updates that are zero, out of line, or stored with too few bits."""

import statistics
from collections import Counter

import torch

from loralab.formats.finding import Finding, some
from loralab.formats.sidecar import Sidecar
from loralab.formats.specimen import AGAIN, Specimen
from loralab.formats.updates import FilePair

OUT_OF_LINE = 10.0
"""‖ΔW‖ over the median of modules of the same name; within 4 in the adapters trained for this package's tests."""
_FEWEST = 4
"""A median of fewer says nothing."""


def tensor_findings(found: Specimen) -> list[Finding]:
    """Dead and exploding updates, and dtypes."""
    pairs = [pair for pair in found.pairs if not _is_padding(pair, found.sidecar)]
    return [*_dead(found, pairs), *_out_of_line(found, pairs), *_dtypes(found)]


def _is_padding(pair: FilePair, sidecar: Sidecar | None) -> bool:
    """Zeros that stand for the half of an nn.MultiheadAttention that is not adapted."""
    record = None if sidecar is None else sidecar.modules.get(pair.name.removesuffix(".out_proj"))
    if record is None or record.kind != "attention" or not pair.is_dead:
        return False
    return "out" not in record.parts if pair.kind == "attention output" else set(record.parts) == {"out"}


def _dead(found: Specimen, pairs: list[FilePair]) -> list[Finding]:
    dead = [pair.name for pair in pairs if pair.is_dead or pair.scale == 0]
    if dead and len(dead) == len(pairs) and not found.others:
        what = f"all {len(dead)} updates are zero: the adapter does nothing"
        advice = "train it: it is fresh, or no gradient reached it"
        return [Finding("error", found.file, what, advice)]
    findings = []
    if dead:
        what = f"{len(dead)} of {len(pairs)} updates are zero, so these modules are not changed: {some(dead)}"
        findings.append(Finding("warning", found.file, what, "see whether training reached these modules"))
    inserted = [] if found.sidecar is None else [path for path, each in found.sidecar.modules.items() if each.settings]
    zero = [key for key, each in found.others.items() if key.rpartition(".")[0] in inserted and not bool(each.any())]
    if zero:
        what = f"{len(zero)} tensors of inserted layers or prefixes are zero throughout: {some(zero)}"
        findings.append(Finding("warning", found.file, what, "see whether training reached them"))
    return findings


def _out_of_line(found: Specimen, pairs: list[FilePair]) -> list[Finding]:
    """‖ΔW‖ against the median of the modules that bear the same name in other layers."""
    norms = {pair.name: pair.delta_norm() for pair in pairs if not pair.is_dead and pair.scale}
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
        findings.append(Finding("warning", found.file, what, "the training may have diverged there: see its loss"))
    if small:
        what = f"‖ΔW‖ far below the median of modules of the same name: {some(sorted(small, key=small.__getitem__))}"
        findings.append(Finding("note", found.file, what, "these modules hardly learned; they may need no adapter"))
    return findings


def _dtypes(found: Specimen) -> list[Finding]:
    count = Counter(str(each.dtype).removeprefix("torch.") for pair in found.pairs for each in (pair.A, pair.B))
    whole = [key for key, each in found.tensors.items() if "lora_" in key and not each.is_floating_point()]
    findings = []
    if whole:
        findings.append(Finding("error", found.file, f"factors are not floating-point numbers: {some(whole)}", AGAIN))
    elif len(count) > 1:
        what = "factors are of different dtypes: " + ", ".join(f"{number} in {name}" for name, number in count.items())
        findings.append(Finding("warning", found.file, what, "find out which step cast some of them; save in float32"))
    elif count and next(iter(count)) in ("float16", "bfloat16"):
        name = next(iter(count))
        bits = {"float16": 11, "bfloat16": 8}[name]
        what = f"factors are stored in {name} ({bits} significant bits); LoRA trains and stores float32"
        findings.append(Finding("note", found.file, what, "if they were trained in it, small updates were lost"))
    over = [key for key, each in found.tensors.items() if each.dtype == torch.float16 and _near_overflow(each)]
    if over:
        what = f"values near the largest of float16: {some(over)}"
        findings.append(Finding("warning", found.file, what, "store it in float32 or bfloat16"))
    return findings


def _near_overflow(tensor: torch.Tensor) -> bool:
    return bool(tensor.numel()) and float(tensor.abs().max()) > torch.finfo(torch.float16).max / 2
