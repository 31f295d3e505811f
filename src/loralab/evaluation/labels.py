"""A classifier's predictions and loss on encoded examples. It knows nothing of text and of metrics.

Shapes: B examples of a batch, C classes (1 for a value).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from loralab.errors import DataError, NumericsError
from loralab.tasks.batching import Batch, collate, sorted_batches
from loralab.tasks.encoding import Encoded


@torch.no_grad()
def predict_labels(
    model: PreTrainedModel, encoded: Sequence[Encoded], pad_id: int, batch_size: int
) -> tuple[list[float], float]:
    """For each example the most probable class, or the value; and the mean loss of an example.

    The loss is the cross-entropy in nats of classes, the squared error of values. Raises `DataError` for an
    example without a label, and `NumericsError` for a loss that is not finite.
    """
    predictions, total = [0.0] * len(encoded), 0.0
    for indices in sorted_batches([each.tokens for each in encoded], batch_size):
        batch = collate([encoded[index] for index in indices], pad_id).to(model.device)
        if batch.labels is None:
            raise DataError("an example has no label; this split cannot be scored, choose another")
        logits_BC = class_logits(model, batch)
        predicted, loss = _judge(logits_BC, batch.labels)
        total += loss
        for index, value in zip(indices, predicted, strict=True):
            predictions[index] = value
    if not math.isfinite(total):
        raise NumericsError(f"the loss is {total}; the model's weights or its precision are at fault")
    return predictions, total / len(encoded)


def class_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The classifier's outputs [B, C] in float32."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None:
        inputs["token_type_ids"] = batch.token_type_ids
    logits: Tensor = model(**inputs).logits
    return logits.float()


def _judge(logits_BC: Tensor, labels_B: Tensor) -> tuple[list[float], float]:
    """Predictions and the summed loss; labels of type float are values, the first column predicts them."""
    if labels_B.is_floating_point():
        values_B = logits_BC[:, 0]
        return values_B.tolist(), float(F.mse_loss(values_B, labels_B, reduction="sum"))
    return logits_BC.argmax(-1).tolist(), float(F.cross_entropy(logits_BC, labels_B, reduction="sum"))
