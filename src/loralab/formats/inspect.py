"""What an adapter on disk is, what it touches, and whether it does anything."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from loralab.core.adapter import adapters_on
from loralab.core.attach import activate, detach, disabled
from loralab.core.factors import Recipe
from loralab.core.names import unwrapped
from loralab.core.update import WHOLE
from loralab.errors import AdapterFileError, SpecError
from loralab.formats.adapter_folder import config_content, load, tensors_path
from loralab.formats.loralib import ALPHA_KEY, Checkpoint
from loralab.formats.peft_config import OWN_TYPE, parse_config
from loralab.formats.peft_layout import OUTPUT_TWICE
from loralab.formats.peft_pairs import FilePair, file_pairs
from loralab.formats.peft_reading import plain_names
from loralab.formats.probe import make_probe
from loralab.formats.sidecar import Sidecar, read_sidecar
from loralab.formats.tensor_checks import is_finite, listed
from loralab.formats.tensor_reading import TensorFile, read_tensors
from loralab.formats.verify import logits_of

PROBED = "loralab-inspected"


@dataclass(frozen=True)
class Inspection:
    """The answer: what the command line prints as JSON."""

    method: str
    rank: int | dict[str, int]
    """One number where all modules have the same, else by module."""
    alpha: float | dict[str, float] | None
    """None for a loralib checkpoint, which does not record it."""
    targets: list[str]
    tensors: int
    delta_norms: dict[str, float] | None
    """‖ΔW‖_F by adapted module; None where alpha is not known."""
    dead_tensors: list[str]
    """A or B that are zero throughout: their module is not changed."""
    base_fingerprint: str | None
    probe_logit_change: float | None = None
    """The largest change of a logit on a fixed input, with a model only."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def inspect(
    path: str | Path, model: nn.Module | None = None, *, alpha: float | None = None, allow_other_base: bool = False
) -> Inspection:
    """Look at an adapter folder or a loralib checkpoint; with a model also load it (strictly) and measure its effect.

    The model is afterwards as it was. Raises what `load` raises.
    """
    source = Path(path)
    found = _folder(source) if source.is_dir() else _loralib(source, alpha)
    notes = list(found.notes)
    change = None
    if model is not None:
        change = logit_change(model, source, None if source.is_dir() else alpha, allow_other_base)
        if change == 0.0:
            notes.append("NO EFFECT: with this adapter the model computes exactly what the base computes")
    if found.dead_tensors:
        notes.append(f"{len(found.dead_tensors)} of the factors are zero throughout, so their modules are not changed")
    return Inspection(**{**asdict(found), "probe_logit_change": change, "notes": notes})


def logit_change(model: nn.Module, path: Path, alpha: float | None = None, allow_other_base: bool = False) -> float:
    """max |logits with the adapter − logits of the base| on the fixed probe; the adapter is taken off again."""
    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel):
        raise SpecError(
            f"the effect on {type(inner).__name__} was asked for, which is no transformers model, so no probe "
            "is known; compare its outputs yourself, under activate() and disabled()"
        )
    probe, before = make_probe(inner), adapters_on(model).routing.active
    training = [module for module in model.modules() if module.training]
    load(model, path, PROBED, alpha=alpha, allow_other_base=allow_other_base)
    model.eval()
    try:
        adapted = logits_of(inner, probe)
        with disabled(model):
            base = logits_of(inner, probe)
    finally:
        detach(model, PROBED)
        if before is not None:
            activate(model, before)
        for module in training:
            module.training = True
    return max(float((one - other).abs().max()) for one, other in zip(adapted, base, strict=True))


def _folder(folder: Path) -> Inspection:
    content, file, sidecar = config_content(folder), read_tensors(tensors_path(folder)), read_sidecar(folder)
    _refuse_damaged(folder, file, sidecar)
    if content.get("peft_type") == OWN_TYPE:
        return _own(folder, file.tensors, content, sidecar)
    config = parse_config(content, str(folder))
    pairs, others = file_pairs(config, plain_names(file.tensors)[0], sidecar)
    pairs = [pair for pair in pairs if not _is_padding(pair, sidecar)]
    notes = [] if sidecar else ["no loralab.json: the base model that it belongs to is not recorded"]
    if others:
        notes.append(f"{len(others)} tensors are saved in full: {', '.join(list(others)[:4])}")
    return _summary("rslora" if config.rank_stabilized else "lora", pairs, len(file.tensors), sidecar, notes)


def _summary(method: str, pairs: list[FilePair], tensors: int, sidecar: Sidecar | None, notes: list[str]) -> Inspection:
    recipes = {pair.name: pair.recipe for pair in pairs} if sidecar is None else _recorded(sidecar)
    return Inspection(
        method=method,
        rank=_one_or_all({name: recipe.rank for name, recipe in recipes.items()}),
        alpha=_one_or_all({name: recipe.alpha for name, recipe in recipes.items()}),
        targets=list(recipes),
        tensors=tensors,
        delta_norms={pair.name: _norm(pair) for pair in pairs},
        dead_tensors=[
            key
            for pair in pairs
            for key, tensor in zip(pair.keys, (pair.A, pair.B), strict=True)
            if not bool(tensor.any())
        ],
        base_fingerprint=None if sidecar is None else sidecar.fingerprint.digest,
        notes=notes,
    )


def _recorded(sidecar: Sidecar) -> dict[str, Recipe]:
    """Target → recipe as they were asked for: parts of a fused projection are `c_attn[q]`, `c_attn[v]`."""
    return {
        path if part == WHOLE else f"{path}.{part}" if record.kind == "parameters" else f"{path}[{part}]": each.recipe
        for path, record in sidecar.modules.items()
        for part, each in record.parts.items()
    }


def _norm(pair: FilePair) -> float:
    return pair.delta_norm() * (OUTPUT_TWICE if pair.kind == "attention output" else 1.0)


def _refuse_damaged(folder: Path, file: TensorFile, sidecar: Sidecar | None) -> None:
    if sidecar is not None:
        sidecar.check_belongs(file.path)
    spoilt = [name for name, tensor in file.tensors.items() if not is_finite(tensor)]
    if spoilt:
        raise AdapterFileError(f"{folder} holds NaN or infinite values in {listed(spoilt)}; get the adapter again")


def _is_padding(pair: FilePair, sidecar: Sidecar | None) -> bool:
    """Zeros that stand for the half of an nn.MultiheadAttention that is not adapted."""
    if sidecar is None or not pair.is_dead:
        return False
    record = sidecar.modules.get(pair.name.removesuffix(".out_proj"))
    if record is None or record.kind != "attention":
        return False
    return "out" not in record.parts if pair.kind == "attention output" else set(record.parts) == {"out"}


def _own(
    folder: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any], sidecar: Sidecar | None
) -> Inspection:
    if sidecar is None:
        raise AdapterFileError(f"{folder} is an adapter that only loralab can read, but its loralab.json is missing")
    pairs = []
    for path, record in sidecar.modules.items():
        for part, each in record.parts.items():
            name = path if part == WHOLE else f"{path}.{part}"
            keys = f"{name}.lora_A", f"{name}.lora_B"
            if not all(key in tensors for key in keys):
                raise AdapterFileError(f"{folder} lacks {' or '.join(keys)}; get it again")
            pairs.append(FilePair(name, record.kind, keys, tensors[keys[0]], tensors[keys[1]], each.recipe))
    why = [f"PEFT cannot load it: {reason}" for reason in content.get("why_not_peft", [])]
    found = _summary(method_name(sidecar.method), pairs, len(tensors), sidecar, why)
    inserted = [path for path, record in sidecar.modules.items() if record.settings]
    zero = [name for name, tensor in tensors.items() if name.rpartition(".")[0] in inserted and not bool(tensor.any())]
    targets = found.targets or inserted or [path for path in sidecar.modules if path not in sidecar.heads]
    return replace(found, targets=targets, dead_tensors=[*found.dead_tensors, *zero])


def method_name(method: Mapping[str, Any]) -> str:
    """What the command line calls a method, from its specification as JSON."""
    if method.get("type") == "JointMethod":
        return "+".join(method_name(each) for each in method["specs"])
    if method.get("type") == "FullFineTune":
        return "full" if method.get("top_layers") is None else f"top{method['top_layers']}"
    if method.get("type") == "BottleneckAdapter":
        return {"houlsby": "adapter-h", "lin": "adapter-l", "pfeiffer": "adapter-p"}[method["style"]]
    return {"BitFit": "bitfit", "PrefixEmbedding": "prefix-embed", "PrefixLayer": "prefix-layer"}.get(
        str(method.get("type")), "rslora" if method.get("rank_stabilized") else "lora"
    )


def _loralib(path: Path, alpha: float | None) -> Inspection:
    file = read_tensors(path)
    checkpoint = Checkpoint.of(file)
    known = float(file.metadata[ALPHA_KEY]) if alpha is None and ALPHA_KEY in file.metadata else alpha
    pairs = [
        FilePair(name, "linear", (f"{name}.lora_A", f"{name}.lora_B"), A, B, Recipe(B.shape[-1], known or 1.0))
        for name, (A, B) in checkpoint.pairs.items()
    ]
    found = _summary("lora", pairs, len(file.tensors), None, ["a loralib checkpoint: it records no base model"])
    if known is not None:
        return found
    note = "alpha is not recorded; pass it for the norms of the updates"
    return Inspection(**{**asdict(found), "alpha": None, "delta_norms": None, "notes": [*found.notes, note]})


def _one_or_all(values: dict[str, Any]) -> Any:
    distinct = set(values.values())
    return distinct.pop() if len(distinct) == 1 else values
