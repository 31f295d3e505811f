"""Whether an adapter does anything to a model: its logits on a fixed probe, with it and without."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from loralab.core.adapter import adapters_on
from loralab.core.attach import activate, detach, disabled, rows
from loralab.core.names import unwrapped
from loralab.errors import SpecError
from loralab.formats.load import load
from loralab.formats.merged.verify import logits_of
from loralab.formats.probe import make_probe

PROBED = "loralab-inspected"


def logit_change(model: nn.Module, path: Path, alpha: float | None = None, allow_other_base: bool = False) -> float:
    """max |logits with the adapter − logits of the base| on the fixed probe; the adapter is taken off again.

    One that waits for its invocation (aLoRA), which the probe does not hold, is looked at as it acts after it.
    """
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
        with _from_the_first_position(model):
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


def _from_the_first_position(model: nn.Module) -> AbstractContextManager[None]:
    waits = adapters_on(model).adapter(PROBED).invocation
    return rows(model, [PROBED], starts=[0]) if waits else nullcontext()  # the probe is of one sequence per call
