"""Whether a causal language model keeps the examples of one row apart when their positions begin anew.

Models of transformers that build their mask from positions do; one with learned positions reads them as well. Others
pass them over: found out by trial, with a pair of examples in one row.

    outputs of the second do not change with the tokens of the first, bit for bit, and are those of the second alone
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.errors import SpecError
from loralab.nn.mode import evaluating

LOOSE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""By precision of the model: how far outputs in a row and alone may be apart, relative; in half precision 0.03."""


@torch.no_grad()
def check_keeps_apart(model: PreTrainedModel, first: Tensor, second: Tensor) -> None:
    """Raises `SpecError` naming the model, where it does not keep examples (token ids [T]) apart in a row."""
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise SpecError(f"packing: {name} has an encoder, which reads a row as one text; leave packing out")
    with evaluating(model):
        try:
            alone = _outputs(model, [second])
            beside = _outputs(model, [first, second])[len(first) :]
            beside_other = _outputs(model, [torch.where(first == 0, 1, 0), second])[len(first) :]
        except (TypeError, ValueError, RuntimeError) as error:
            raise SpecError(f"packing: {name} takes no positions ({error}); leave packing out") from error
    if not torch.equal(beside, beside_other):
        raise SpecError(f"packing: {name} does not keep the examples of a row apart; leave packing out")
    far = float((beside - alone).norm() / alone.norm())
    if not far <= LOOSE.get(model.dtype, 0.03):
        raise SpecError(
            f"packing: {name} does not begin its positions anew with every example of a row (outputs {far:.1%} off); "
            "leave packing out"
        )


def _outputs(model: PreTrainedModel, examples: list[Tensor]) -> Tensor:
    """Logits [T, V] of one row, in float32."""
    ids = torch.cat(examples)[None].to(model.device)
    positions = torch.cat([torch.arange(len(each)) for each in examples])[None].to(model.device)
    logits: Tensor = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return logits[0].float()
