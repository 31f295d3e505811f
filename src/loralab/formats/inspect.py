"""What an adapter on disk is, what it touches, and whether it does anything."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from loralab.core.updates.factors import Recipe
from loralab.core.updates.magnitude import MAGNITUDE
from loralab.core.updates.update import WHOLE
from loralab.errors import some
from loralab.formats.doctor.examine import findings_beside_loading, logit_change
from loralab.formats.peft.beside_base import BIAS_OF_B
from loralab.formats.peft.tokens import DELTA, row_count
from loralab.formats.read import read_adapter
from loralab.formats.stored import Finding, StoredAdapter
from loralab.progress import tracked

NO_SIDECAR = "no loralab.json: the base model that it belongs to is not recorded"


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
    findings: list[Finding] = field(default_factory=list)
    """What `loralab analyse doctor` has to say, the worst first."""

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
    stored = read_adapter(source, alpha).demand()
    summary = _summary(stored)
    notes = list(summary.notes)
    change = None
    if model is not None:
        change = logit_change(model, stored, allow_other_base)
        if change == 0.0:
            notes.append("NO EFFECT: with this adapter the model computes exactly what the base computes")
    if summary.dead_tensors:
        notes.append(
            f"{len(summary.dead_tensors)} of the factors are zero throughout, so their modules are not changed"
        )
    findings = findings_beside_loading(stored, model)
    return replace(summary, probe_logit_change=change, notes=notes, findings=findings)


def _summary(stored: StoredAdapter) -> Inspection:
    recipes = _recipes(stored)
    dead = [key for pair in stored.updates for key, each in pair.by_key.items() if not bool(each.any())]
    known = stored.alpha_is_known
    return Inspection(
        method=stored.method,
        rank=_one_or_all({name: recipe.rank for name, recipe in recipes.items()}),
        alpha=_one_or_all({name: recipe.alpha for name, recipe in recipes.items()}) if known else None,
        targets=list(recipes) or stored.inserted or _trained_whole(stored),
        tensors=stored.count,
        delta_norms={pair.name: pair.delta_norm() for pair in tracked(stored.updates, "norms")} if known else None,
        dead_tensors=[*dead, *stored.idle_insertions],
        base_fingerprint=None if stored.sidecar is None else stored.sidecar.fingerprint.digest,
        notes=list(_notes(stored)),
    )


def _notes(stored: StoredAdapter) -> Iterator[str]:
    """What a reader of the figures should know beside them."""
    yield from stored.said
    if stored.is_checkpoint:
        yield "a loralib checkpoint: it records no base model"
    elif stored.sidecar is None:
        yield NO_SIDECAR
    if not stored.alpha_is_known:
        yield "alpha is not recorded; pass it for the norms of the updates"
    yield from (f"PEFT cannot load it: {reason}" for reason in stored.why_not_peft)
    yield from _notes_on_peft(stored)


def _notes_on_peft(stored: StoredAdapter) -> Iterator[str]:
    config = stored.config
    if config is None:
        return
    for path, count in row_count(stored.others).items():
        yield f"{count} rows of {path} are trained (trainable_token_indices)"
    copies = stored.base_copies
    whole = [name for name in stored.others if not name.endswith((MAGNITUDE, DELTA, BIAS_OF_B)) and name not in copies]
    if whole:
        yield f"{len(whole)} tensors are saved in full: {some(whole, 4)}"
    if config.bias_of_B:
        yield "lora_bias: every B has a bias, which moves its layer's own; norms are those of B·A alone"
    if config.magnitude:
        yield (
            "DoRA: the pairs change the direction of the weights, whose lengths are trained beside them; norms are "
            "those of B·A, not of the whole change"
        )
    if config.invocation:
        yield f"aLoRA: it acts only from where the tokens {list(config.invocation)} begin on, at their last place"


def _trained_whole(stored: StoredAdapter) -> list[str]:
    sidecar = stored.sidecar
    return [] if sidecar is None else [path for path in sidecar.modules if path not in sidecar.heads]


def _recipes(stored: StoredAdapter) -> dict[str, Recipe]:
    """Recipes by target, as a specification names it: parts of a fused projection are `c_attn[q]`, `c_attn[v]`."""
    if stored.sidecar is None:
        return {pair.name: pair.recipe for pair in stored.updates}
    return {
        path if part == WHOLE else f"{path}.{part}" if record.kind == "parameters" else f"{path}[{part}]": each.recipe
        for path, record in stored.sidecar.modules.items()
        for part, each in record.parts.items()
    }


def _one_or_all(values: dict[str, Any]) -> Any:
    distinct = set(values.values())
    return distinct.pop() if len(distinct) == 1 else values
