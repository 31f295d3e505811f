"""The loss of a language model on encoded examples: nats per target token. It knows nothing of tasks' files."""

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from loralab.errors import NumericsError
from loralab.models.head import target_loss_sum
from loralab.tasks.batching import collate, sorted_batches
from loralab.tasks.encoding import AnyEncoded


@torch.no_grad()
def mean_target_loss(model: PreTrainedModel, encoded: Sequence[AnyEncoded], pad_id: int, batch_size: int) -> float:
    """−(1/N) Σ log p(target token | all before it) over all N target tokens, in the model's current mode.

    Raises `NumericsError` for a loss that is not finite.
    """
    total, count = 0.0, 0
    for indices in sorted_batches([each.tokens for each in encoded], batch_size):
        batch = collate([encoded[index] for index in indices], pad_id).to(model.device)
        assert batch.labels is not None
        loss, targets = target_loss_sum(model, batch.input_ids, batch.attention_mask, batch.labels)
        total, count = total + float(loss), count + targets
    if not math.isfinite(total):
        raise NumericsError(f"the loss is {total}; the model's weights or its precision are at fault")
    return total / count
