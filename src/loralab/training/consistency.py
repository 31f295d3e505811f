"""The consistency loss: the same batch goes through the model twice, and the two predictions are to agree.

    L = task(z₁) + λ · ½·[KL(sg(p₂) ‖ p₁) + KL(sg(p₁) ‖ p₂)],    p = softmax(z),  sg: no gradient

What differs between the passes is chance: AdaMix's experts (arXiv 2205.12410, for which it is made; its released code
takes λ = 1 on GLUE and 100 on generation), or dropout alone, when it is R-Drop. Values are compared by their squared
difference, for the softmax of a single number is always 1. Without chance it is 0. It costs a second forward pass.

Shapes: N targets (tokens or examples), C classes or tokens of the vocabulary.
"""

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from loralab.core.prompt import ends_before_targets, prompts_end_at
from loralab.errors import DataError
from loralab.evaluation.labels import class_logits
from loralab.models.padding import padding_lent
from loralab.tasks.encoding.batches import Batch
from loralab.tasks.encoding.tokens import IGNORED
from loralab.training.objective import label_loss_sum


def consistent_loss_sum(
    model: PreTrainedModel, batch: Batch, kind: str, label_smoothing: float, weight: float
) -> tuple[Tensor, Tensor]:
    """(Σ of the task's loss of the first pass, λ·Σ of the disagreement of both) over the batch's targets, float32.

    Raises `DataError` where labels are not known.
    """
    if batch.labels is None:
        raise DataError("an example to train on has no label; give it one, or leave it out")
    first, targets_N, weights_N = _target_logits(model, batch, kind)
    second, _, _ = _target_logits(model, batch, kind)
    task = label_loss_sum(first, targets_N, kind, label_smoothing, weights_N)
    return task, weight * disagreement(first, second, kind == "regression", weights_N)


def disagreement(first_NC: Tensor, second_NC: Tensor, values: bool = False, weights_N: Tensor | None = None) -> Tensor:
    """Σ over N of ½·[KL(sg(p₂) ‖ p₁) + KL(sg(p₁) ‖ p₂)], or of the squared difference of two `values`; each times its
    weight, where there are weights.
    """
    reduction = "sum" if weights_N is None else "none"
    if values:
        apart = F.mse_loss(first_NC, second_NC, reduction=reduction)
    else:
        log_p, log_q = first_NC.log_softmax(-1), second_NC.log_softmax(-1)
        there = F.kl_div(log_p, log_q.detach(), reduction=reduction, log_target=True)
        back = F.kl_div(log_q, log_p.detach(), reduction=reduction, log_target=True)
        apart = 0.5 * (there + back)
    return apart if weights_N is None else apart.sum(-1) @ weights_N


def _target_logits(model: PreTrainedModel, batch: Batch, kind: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """(the outputs [N, C] in float32 at what is to be predicted, what that is [N], and its weights [N] if any)."""
    assert batch.labels is not None
    if kind != "generation":
        return class_logits(model, batch), batch.labels, batch.weights
    labels_BT = batch.labels
    with prompts_end_at(ends_before_targets(labels_BT, IGNORED)):
        if model.config.is_encoder_decoder:
            with padding_lent(model, 0):
                logits_BTV: Tensor = model(**batch.inputs, labels=labels_BT).logits
        else:
            logits_BTV = model(**batch.inputs, use_cache=False).logits[:, :-1]
            labels_BT = labels_BT[:, 1:]
    wanted_BT = labels_BT != IGNORED
    weights_N = None if batch.weights is None else batch.weights[wanted_BT.nonzero()[:, 0]]
    return logits_BTV[wanted_BT].float(), labels_BT[wanted_BT], weights_N


def consistency_weight(asked: float | None, method: str, kind: str) -> float:
    """λ: what was asked for; else the released code's for AdaMix, and 0 for every other method."""
    if asked is not None:
        return asked
    if not any(part.startswith("adamix") for part in method.split("+")):
        return 0.0
    return 100.0 if kind == "generation" else 1.0
