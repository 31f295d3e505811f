"""Leaf modules that keep less for the backward pass and touch memory less often, put on a model from outside.

Norms (`rms_norm.py`), gated feed-forwards (`gated.py`) and activations (`activation.py`), each replaced only where a
trial finds that the lean function computes the same, and only within `lean_leaves`. torch's own LayerNorm and gelu are
lean already. It knows nothing of LoRA.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from loralab.models.fast.activation import lean_activation
from loralab.models.fast.gated import lean_gate
from loralab.models.fast.rms_norm import lean_norm
from loralab.models.fast.trial import Forward

KINDS = ("norm", "gate", "activation")


@dataclass(frozen=True)
class Leaves:
    """How many modules are lean."""

    norms: int = 0
    gates: int = 0
    activations: int = 0

    def __str__(self) -> str:
        known = {"norms": self.norms, "gates": self.gates, "activations": self.activations}
        named = [f"{count} {name}" for name, count in known.items() if count]
        return ", ".join(named) or "no norm, gate or activation"


@contextmanager
def lean_leaves(model: nn.Module, recompute_gates: bool = False) -> Iterator[Leaves]:
    """Within this, the modules that can be lean are; yields how many of each kind. Afterwards each is as it was.

    With `recompute_gates` what a gate multiplies is not kept either but computed again in the backward pass from the
    input of its projections: of a Llama's block that is half of what is kept, for a quarter more work.
    """
    replaced = _found(model, recompute_gates)
    for module, (_, forward) in replaced.items():
        module.forward = forward
    try:
        counts = Counter(kind for kind, _ in replaced.values())
        yield Leaves(*(counts[kind] for kind in KINDS))
    finally:
        for module in replaced:
            del module.forward


def _found(model: nn.Module, recompute_gates: bool) -> dict[nn.Module, tuple[str, Forward]]:
    """What is replaced, of which kind, by what. What a lean gate calls itself is left as it is."""
    found: dict[nn.Module, tuple[str, Forward]] = {}
    for module in model.modules():  # parents first
        if "forward" in vars(module):  # somebody put another one there
            continue
        if (gate := lean_gate(module, recompute_gates)) is not None:
            found[module] = ("gate", gate)
        elif (norm := lean_norm(module)) is not None:
            found[module] = ("norm", norm)
    within = {child for module, (kind, _) in found.items() if kind == "gate" for child in module.children()}
    for module in model.modules():
        if module not in found and module not in within and "forward" not in vars(module):
            activation = lean_activation(module)
            if activation is not None:
                found[module] = ("activation", activation)
    return found
