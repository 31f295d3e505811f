"""Blocks whose activations are computed again in the backward pass instead of kept.

It knows nothing of adapters and training.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compute_blocks_again(model: "PreTrainedModel", *, reentrant: bool = False) -> None:
    """Of every block only its input is kept. transformers had another word for it, which newer ones warn of."""
    begin = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    begin({"use_reentrant": reentrant})
