"""The loss of a language model on encoded examples: nats per target token.

Training and evaluation take it from here alike, so that both say where the prompts end.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.core.prompt import ends_before_targets, prompts_end_at
from loralab.errors import NumericsError
from loralab.models.fast.head import row_losses, target_loss_sum
from loralab.nn.targets import IGNORED
from loralab.processes.group import ALONE, Processes
from loralab.tasks.encoding.batches import Batch, collate, longest_width, sorted_batches
from loralab.tasks.encoding.encoded import AnyEncoded


def batch_target_loss(
    model: PreTrainedModel, batch: Batch, label_smoothing: float = 0.0, *, weighted: bool = False
) -> tuple[Tensor, int]:
    """(Σ cross-entropy of a batch in nats, a differentiable float32 scalar; its number of target tokens).

    With `weighted` a token counts as much as its example's weight says.
    """
    assert batch.labels is not None
    with prompts_end_at(ends_before_targets(batch.labels, IGNORED)):
        return target_loss_sum(
            model,
            batch.input_ids,
            batch.attention_mask,
            batch.labels,
            label_smoothing=label_smoothing,
            weights=batch.weights if weighted else None,
            position_ids=batch.inputs.get("position_ids"),
        )


def row_log_likelihoods(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """(log p(targets | all before them) of each row [B], in nats, differentiable; the targets of each [B])."""
    losses_B, counts_B = row_target_losses(model, batch)
    return -losses_B, counts_B


def row_target_losses(model: PreTrainedModel, batch: Batch, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """(Σ cross-entropy of each row [B] in nats, differentiable; the targets of each [B])."""
    assert batch.labels is not None
    with prompts_end_at(ends_before_targets(batch.labels, IGNORED)):
        return row_losses(model, batch.input_ids, batch.attention_mask, batch.labels, label_smoothing)


@torch.no_grad()
def mean_target_loss(
    model: PreTrainedModel,
    encoded: Sequence[AnyEncoded],
    pad_id: int,
    batch_size: int,
    processes: Processes = ALONE,
) -> float:
    """−(1/N) Σ log p(target token | all before it) over all N target tokens, in the model's current mode.

    Raises `NumericsError` for a loss that is not finite.
    """
    longest = longest_width(encoded)

    def measure(indices: list[int]) -> tuple[float, int]:
        batch = collate([encoded[index] for index in indices], pad_id, longest=longest).to(model.device)
        loss, targets = batch_target_loss(model, batch)
        return float(loss), targets

    measured = processes.map(measure, sorted_batches([each.tokens for each in encoded], batch_size), "batches")
    total, count = sum(loss for loss, _ in measured), sum(targets for _, targets in measured)
    if not math.isfinite(total):
        raise NumericsError(f"the loss is {total}; the model's weights or its precision are at fault")
    return total / count
