"""A base in four bits whose adapters still know the float model that it was: its weights' prints are taken before.

So an adapter that is trained on the quantised base loads on the float one and the other way round, and neither loads
on another model's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from loralab.core.adapter import adapters_on
from loralab.errors import AdapterStateError, SpecError
from loralab.formats.fingerprint import TensorPrint
from loralab.models.nf4 import Principal, Quantised, quantize_model

QUANTIZATIONS = {"nf4": False, "nf4-double": True}
"""The ways to quantise -> whether the absmax are quantised too."""


def quantize_base(
    model: nn.Module,
    how: str,
    principal: Principal | None = None,
    *,
    dtype: torch.dtype | None = None,
    part: Callable[[Tensor], Tensor] | None = None,
) -> Quantised:
    """Quantise the dense layers in the blocks of a model that has no adapters yet.

    With `principal` (`methods/pissa.principal_of`) that part of a weight stays in float32 and the rest is
    quantised: what a PiSSA adapter wants under it. `dtype` and `part` are those of `quantize_model`. Raises SpecError
    for an unknown way, AdapterStateError where there are adapters, and what `quantize_model` raises; the model is then
    as it was.
    """
    if how not in QUANTIZATIONS:
        raise SpecError(f"quantize {how!r} is not known; choose {', '.join(QUANTIZATIONS)}")
    there = adapters_on(model).adapters
    if there:
        raise AdapterStateError(
            f"the base cannot be quantised under the adapters {', '.join(there)}: detach them, quantise, and load them "
            "again"
        )
    return quantize_model(
        model, double=QUANTIZATIONS[how], remember=TensorPrint.of, principal=principal, dtype=dtype, part=part
    )


def trained_on(how: str) -> str:
    """What an adapter that was trained on such a base says of itself from then on."""
    return (
        f"trained on the base quantised to {how}; the fingerprint is that of its float weights, on which the adapter "
        f"loads too but computes a little differently (quantize {how} makes the base what it was trained on)"
    )
