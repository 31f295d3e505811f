"""A classifier's predictions and loss on encoded examples.

Shapes: B examples of a batch, C classes (1 for a value).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from loralab.errors import DataError, NumericsError
from loralab.models.padding import row_logits
from loralab.processes.group import ALONE, Processes
from loralab.tasks.encoding.batches import Batch, collate, longest_width, sorted_batches
from loralab.tasks.encoding.encoded import AnyEncoded, EncodedPair, EncodedRow


@torch.no_grad()
def predict_labels(
    model: PreTrainedModel,
    encoded: Sequence[AnyEncoded],
    pad_id: int,
    batch_size: int,
    processes: Processes = ALONE,
) -> tuple[list[float], float | None]:
    """For each example the most probable class, or the value; and the mean loss of an example.

    A model with a single output predicts values. The loss is the cross-entropy in nats of classes, the squared error of
    values, and None for examples without labels. Raises `DataError` where some have a label and others none, and
    `NumericsError` for an output that is not finite.
    """
    labelled, longest = _are_labelled(encoded), longest_width(encoded)

    def predict(indices: list[int]) -> tuple[list[float], float]:
        batch = collate([encoded[index] for index in indices], pad_id, longest=longest).to(model.device)
        logits_BC = class_logits(model, batch)
        if not torch.isfinite(logits_BC).all():
            raise NumericsError("an output of the model is NaN or infinite; its weights or its precision are at fault")
        loss = 0.0 if batch.labels is None else float(label_losses(logits_BC, batch.labels))
        return _predicted(logits_BC), loss

    batches = sorted_batches([each.tokens for each in encoded], batch_size)
    predicted = processes.map(predict, batches, "batches")
    places = [index for indices in batches for index in indices]
    values = dict(zip(places, (value for own, _ in predicted for value in own), strict=True))
    total = sum(loss for _, loss in predicted)
    return [values[index] for index in range(len(encoded))], total / len(encoded) if labelled else None


def _are_labelled(encoded: Sequence[AnyEncoded]) -> bool:
    known = sum(not isinstance(each, EncodedPair | EncodedRow) and each.labels is not None for each in encoded)
    if 0 < known < len(encoded):
        raise DataError(
            f"{len(encoded) - known} of {len(encoded)} examples have no label; give labels to all of them or to none"
        )
    return known > 0


def class_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The classifier's outputs [B, C] in float32."""
    return row_logits(model, {name: _in_precision(tensor, model) for name, tensor in batch.inputs.items()}).float()


def _in_precision(tensor: Tensor, model: PreTrainedModel) -> Tensor:
    """Pixels in the model's precision; ids as they are."""
    return tensor.to(model.dtype) if tensor.is_floating_point() else tensor


def _predicted(logits_BC: Tensor) -> list[float]:
    """Values where there is one column, else the classes' indices."""
    predicted_B = logits_BC[:, 0] if logits_BC.shape[1] == 1 else logits_BC.argmax(-1)
    predicted: list[float] = predicted_B.tolist()
    return predicted


def label_losses(
    outputs_BC: Tensor, labels_B: Tensor, *, reduction: str = "sum", label_smoothing: float = 0.0
) -> Tensor:
    """The squared error of labels that are values, of a float type, which the first column predicts; of classes the
    cross-entropy in nats. Summed over B, or with "none" for each."""
    if labels_B.is_floating_point():
        return F.mse_loss(outputs_BC[:, 0], labels_B, reduction=reduction)
    return F.cross_entropy(outputs_BC, labels_B, reduction=reduction, label_smoothing=label_smoothing)
