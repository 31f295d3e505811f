"""The loss of one batch, summed over its targets. It knows tasks only by their kind."""

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from loralab.errors import DataError
from loralab.evaluation.labels import class_logits
from loralab.evaluation.likelihood import batch_target_loss
from loralab.tasks.encoding.batches import Batch


def batch_loss_sum(model: PreTrainedModel, batch: Batch, kind: str, label_smoothing: float) -> Tensor:
    """Σ over the batch's targets of the loss, each multiplied by its example's weight, a float32 scalar.

    Nats per target token (`kind` "generation") or per example ("classification"), squared error per example
    ("regression"). Raises `DataError` where labels are not known.
    """
    if batch.labels is None:
        raise DataError("an example to train on has no label; give it one, or leave it out")
    if kind == "generation":
        return batch_target_loss(model, batch, label_smoothing, weighted=True)[0]
    logits_BC = class_logits(model, batch)
    return label_loss_sum(logits_BC, batch.labels, kind, label_smoothing, batch.weights)


def label_loss_sum(
    outputs_NC: Tensor, targets_N: Tensor, kind: str, label_smoothing: float, weights_N: Tensor | None
) -> Tensor:
    """Σ w_n · loss_n: the squared error of values (`kind` "regression"), else the cross-entropy; w_n = 1 for None."""
    reduction = "sum" if weights_N is None else "none"
    if kind == "regression":
        losses = F.mse_loss(outputs_NC[:, 0], targets_N, reduction=reduction)
    else:
        losses = F.cross_entropy(outputs_NC, targets_N, reduction=reduction, label_smoothing=label_smoothing)
    return losses if weights_N is None else losses @ weights_N
