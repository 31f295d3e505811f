"""The loss of one batch, summed over its targets. It knows tasks only by their kind."""

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from loralab.errors import DataError
from loralab.evaluation.labels import class_logits
from loralab.evaluation.likelihood import batch_target_loss
from loralab.tasks.batching import Batch


def batch_loss_sum(model: PreTrainedModel, batch: Batch, kind: str, label_smoothing: float) -> Tensor:
    """Σ over the batch's targets of the loss, a float32 scalar.

    Nats per target token (`kind` "generation") or per example ("classification"), squared error per example
    ("regression"). Raises `DataError` where labels are not known.
    """
    if batch.labels is None:
        raise DataError("an example to train on has no label; give it one, or leave it out")
    if kind == "generation":
        return batch_target_loss(model, batch, label_smoothing)[0]
    logits_BC = class_logits(model, batch)
    if kind == "regression":
        return F.mse_loss(logits_BC[:, 0], batch.labels, reduction="sum")
    return F.cross_entropy(logits_BC, batch.labels, reduction="sum", label_smoothing=label_smoothing)
