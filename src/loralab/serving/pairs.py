"""An adapter from disk as the engine takes it: a pair A, s·B for every module it adapts, or a refusal by name."""

from collections.abc import Container
from pathlib import Path

import torch
from torch import nn

from loralab.core.updates.low_rank import LinearUpdate
from loralab.core.updates.magnitude import Magnitude
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError, AdapterStateError, listed
from loralab.formats.read import read_adapter
from loralab.serving.engine.bank import Pairs


def read_pairs(path: Path, model: nn.Module, with_rows: Container[str]) -> Pairs:
    """The pairs by module path, in float32, of an adapter that was trained on `model`, which is not changed;
    `with_rows` are the paths of the modules that have an input for every row of a batch.

    Raises what `load` raises for files that are damaged or of another base; AdapterStateError for an adapter that is
    more than low-rank updates of linear layers; AdapterFileError for one that does nothing.
    """
    stored = read_adapter(path).demand()
    plan = stored.layout.place(stored, model)
    if stored.sidecar is not None:
        stored.sidecar.check_base(plan.updates, model)
    _refuse_others(
        path,
        {name: why for name, each in plan.updates.items() if (why := why_not_beside_others(each, name in with_rows))},
    )
    with torch.no_grad():
        pairs = {name: pair_of(each) for name, each in plan.updates.items()}
    if not any(bool(B.any()) and bool(A.any()) for A, B in pairs.values()):
        raise AdapterFileError(
            f"adapter {path.name} does nothing: every update in it is zero; train it, or take it away"
        )
    return pairs


def pair_of(update: Update) -> tuple[torch.Tensor, torch.Tensor]:
    """A and s·B of a low-rank update of a linear layer."""
    assert isinstance(update, LinearUpdate)
    A, scaled_B = update.eval().settled_factors()
    return A.detach(), scaled_B.detach()


def why_not_beside_others(update: Update, has_rows: bool) -> str:
    """Why rows of a batch cannot have this update; empty where they can."""
    if isinstance(update, Magnitude):
        return "a magnitude (DoRA)"
    if update.invocation:
        return "an invocation (aLoRA)"
    if update.replacements():
        return "weights trained in full"
    if not isinstance(update, LinearUpdate) or type(update) is not LinearUpdate:
        return f"an update of kind {update.kind}"
    if not has_rows:
        return "a module that is not given every row of a batch (an expert?)"
    return ""


def _refuse_others(path: Path, refused: dict[str, str]) -> None:
    if refused:
        examples = listed([f"{name}: {why}" for name, why in refused.items()], 3)
        raise AdapterStateError(
            f"adapter {path.name} cannot be served beside others: it is more than low-rank updates of linear layers "
            f"({examples}); merge it into its base and serve that"
        )
