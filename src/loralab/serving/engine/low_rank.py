"""Adapters as the engine takes them: a pair A, s·B for every dense layer that they adapt."""

import torch
from torch import Tensor, nn

from loralab.core.adapter import adapters_on
from loralab.core.layer import names_of
from loralab.core.updates.low_rank import LinearUpdate
from loralab.core.updates.magnitude import Magnitude
from loralab.core.updates.update import Update
from loralab.errors import AdapterStateError
from loralab.serving.engine.bank import Pairs


def pair_of(update: Update) -> tuple[Tensor, Tensor]:
    """A and s·B of a low-rank update of a linear layer, in evaluation mode."""
    assert isinstance(update, LinearUpdate)
    A, scaled_B = update.settled_factors()
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


@torch.no_grad()
def speaking_pairs(model: nn.Module) -> Pairs:
    """What the adapters that speak on the model, outside of `rows`, add to its dense layers, by path; empty for a base.

    Raises AdapterStateError where they are more than low-rank updates of dense layers.
    """
    adapters = adapters_on(model)
    if adapters.routing.merged is not None:
        return {}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name in names_of(adapters.routing.active):
        for path, update in adapters.adapter(name).updates.items():
            why_not = why_not_beside_others(update, has_rows=True)
            if why_not:
                raise AdapterStateError(f"adapter {name!r} has {why_not} at {path}")
            found.setdefault(path, []).append(pair_of(update))
    return {path: _summed(pairs) for path, pairs in found.items()}


def _summed(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One pair for the sum of several."""
    return torch.cat([A for A, _ in pairs]), torch.cat([scaled_B for _, scaled_B in pairs], 1)
