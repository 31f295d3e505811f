"""What a training step minimises: the task's loss by its kind, and what may be added to it.

    reported     Σ_i w_i Σ_t loss_it / Σ_i w_i n_i        (example i of weight w_i, 1 unless given, with n_i targets)
    minimised    the same, + the consistency loss, + the cosine penalty

Shapes: N targets (tokens or examples), C classes or tokens of the vocabulary; B rows, T tokens, D width, L blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from loralab.core.prompt import ends_before_targets, prompts_end_at
from loralab.errors import DataError, SpecError
from loralab.evaluation.labels import class_logits, label_losses
from loralab.evaluation.likelihood import batch_target_loss, row_log_likelihoods, row_target_losses
from loralab.evaluation.preference import reference_logs, score_pairs
from loralab.methods.table import rows_of
from loralab.models.families.aliases import block_paths
from loralab.models.padding import padding_lent
from loralab.nn.mode import evaluating
from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.batches import Batch
from loralab.tasks.preference import PreferenceObjective
from loralab.tasks.task import Task
from loralab.training.config import TrainConfig
from loralab.training.data import StepData, TrainingData

# -- the face -----------------------------------------------------------------------------------------------------


class Objective(ABC):
    """What the steps of a run minimise."""

    model: PreTrainedModel

    @abstractmethod
    def step(self, batch: Batch, whole: StepData) -> tuple[Tensor, Tensor]:
        """A batch's shares, as float32 scalars, of what its whole step reports and of what it minimises.

        Every batch's summed loss is divided by what the step's targets count together, so the gradient is the one that
        a single batch of all examples would give. Raises `DataError` for examples without labels.
        """

    def backward(self, data: StepData) -> float:
        """Add the gradient of a whole step to what trains, batch by batch; returns the loss that is reported.

        A device is waited for once, at the end, so that it is never without work between two batches.
        """
        shares = []
        for batch in data.batches:
            reported, minimised = self.step(batch.to(self.model.device), data)
            minimised.backward()  # type: ignore[no-untyped-call]
            shares.append(reported.detach())
        return float(sum(torch.stack(shares).tolist()))


@dataclass(frozen=True)
class TaskLoss(Objective):
    """The task's own loss, and nothing else."""

    model: PreTrainedModel
    kind: str
    label_smoothing: float = 0.0

    def step(self, batch: Batch, whole: StepData) -> tuple[Tensor, Tensor]:
        loss = batch_loss_sum(self.model, batch, self.kind, self.label_smoothing) / whole.mass
        return loss, loss

    def by_row(self, batch: Batch) -> Tensor:
        """[B], what each row adds to `batch_loss_sum`, differentiable: for batches of which rows belong to several."""
        _check_labelled(batch)
        losses_B = CRITERIA[self.kind].row_losses(self.model, batch, self.label_smoothing)
        return losses_B if batch.weights is None else losses_B * batch.weights.to(losses_B)


@dataclass(frozen=True)
class Consistent(Objective):
    """The task's loss of one pass, and λ times how far a second one is from it."""

    model: PreTrainedModel
    kind: str
    label_smoothing: float
    weight: float

    def step(self, batch: Batch, whole: StepData) -> tuple[Tensor, Tensor]:
        task, apart = consistent_loss_sum(self.model, batch, self.kind, self.label_smoothing, self.weight)
        return task / whole.mass, (task + apart) / whole.mass


@dataclass(frozen=True)
class PulledTogether(Objective):
    """Another objective, and the penalty of a regulariser that watches its passes."""

    model: PreTrainedModel
    objective: Objective
    regularizer: "NeighbourCosine"

    def step(self, batch: Batch, whole: StepData) -> tuple[Tensor, Tensor]:
        with self.regularizer.watched():
            reported, minimised = self.objective.step(batch, whole)
        return reported, minimised + self.regularizer.penalty(batch) * (batch.targets / whole.targets)


@dataclass(frozen=True)
class Preferred(Objective):
    """The loss of pairs of answers, against the model without its adapter where the objective has a reference."""

    model: PreTrainedModel
    objective: PreferenceObjective
    reference: "Reference"

    def step(self, batch: Batch, whole: StepData) -> tuple[Tensor, Tensor]:
        reference_2B = self.reference.of(batch) if self.objective.has_reference else None
        losses_B = score_pairs(self.objective, *row_log_likelihoods(self.model, batch), reference_2B).losses_B
        loss = (losses_B.sum() if batch.weights is None else losses_B @ batch.weights.to(losses_B)) / whole.mass
        return loss, loss


def objective_for(config: TrainConfig, model: PreTrainedModel, task: Task, data: TrainingData) -> Objective:
    """What the configuration has a model minimise on a task."""
    if task.kind == "preference":
        return Preferred(model, task.preference, Reference(model, data))
    kind = task.kind
    weight = consistency_weight(config.consistency, config.method, kind)
    smoothing = config.label_smoothing
    objective = Consistent(model, kind, smoothing, weight) if weight else TaskLoss(model, kind, smoothing)
    regularizer = neighbour_cosine(model, config.cosine_penalty)
    return objective if regularizer is None else PulledTogether(model, objective, regularizer)


# -- the task's loss, by kind -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictions:
    """What a model says at the targets of a batch, in float32, and what is right."""

    outputs_NC: Tensor
    targets_N: Tensor
    weights_N: Tensor | None
    """None where all count 1."""

    def sum_of(self, losses: Callable[..., Tensor], other: Tensor | None = None, **options: float) -> Tensor:
        """Σ w_n · loss_n of the outputs beside what is right, or beside `other`."""
        beside = self.targets_N if other is None else other
        if self.weights_N is None:
            return losses(self.outputs_NC, beside, reduction="sum", **options)
        return losses(self.outputs_NC, beside, reduction="none", **options) @ self.weights_N


@dataclass(frozen=True)
class Criterion:
    """What one kind of task is to learn."""

    loss_sum: Callable[[PreTrainedModel, Batch, float], Tensor]
    """Σ over a batch's targets of the loss, smoothed by so much, as cheaply as it can be had."""
    row_losses: Callable[[PreTrainedModel, Batch, float], Tensor]
    """Σ over each row's targets of the loss [B], without weights."""
    predictions: Callable[[PreTrainedModel, Batch], Predictions]
    """What the loss is of, where it is to be compared."""
    distance: Callable[..., Tensor]
    """How far two passes' outputs are apart, as `divergence`."""


def batch_loss_sum(model: PreTrainedModel, batch: Batch, kind: str, label_smoothing: float) -> Tensor:
    """Σ over the batch's targets of the loss, each multiplied by its example's weight, a float32 scalar.

    Nats per target token (`kind` "generation") or per example ("classification"), squared error per example
    ("regression"). Raises `DataError` where labels are not known.
    """
    _check_labelled(batch)
    return CRITERIA[kind].loss_sum(model, batch, label_smoothing)


def _check_labelled(batch: Batch) -> None:
    if batch.labels is None:
        raise DataError("an example to train on has no label; give it one, or leave it out")


def _token_loss_sum(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
    """Without the logits of all tokens ever being there together."""
    return batch_target_loss(model, batch, label_smoothing, weighted=True)[0]


def _token_losses_by_row(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
    return row_target_losses(model, batch, label_smoothing)[0]


def _label_losses(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
    assert batch.labels is not None
    return label_losses(class_logits(model, batch), batch.labels, reduction="none", label_smoothing=label_smoothing)


def _label_loss_sum(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
    return _at_labels(model, batch).sum_of(label_losses, label_smoothing=label_smoothing)


def _at_labels(model: PreTrainedModel, batch: Batch) -> Predictions:
    assert batch.labels is not None
    return Predictions(class_logits(model, batch), batch.labels, batch.weights)


def _at_tokens(model: PreTrainedModel, batch: Batch) -> Predictions:
    assert batch.labels is not None
    labels_BT = batch.labels
    with prompts_end_at(ends_before_targets(labels_BT, IGNORED)):
        if model.config.is_encoder_decoder:
            with padding_lent(model, 0):
                logits_BTV: Tensor = model(**batch.inputs, labels=labels_BT).logits
        else:
            logits_BTV = model(**batch.inputs, use_cache=False).logits[:, :-1]
            labels_BT = labels_BT[:, 1:]
    wanted_BT = labels_BT != IGNORED
    weights_N = None if batch.weights is None else _of_tokens(batch.weights, wanted_BT)
    return Predictions(logits_BTV[wanted_BT].float(), labels_BT[wanted_BT], weights_N)


def _of_tokens(weights: Tensor, wanted_BT: Tensor) -> Tensor:
    """The weights of targets, from those of rows [B] or of the tokens of packed rows [B, T], the last T of them."""
    if weights.ndim == 1:
        return weights[wanted_BT.nonzero()[:, 0]]
    return weights[:, -wanted_BT.shape[1] :][wanted_BT]


# -- the consistency loss -----------------------------------------------------------------------------------------
#
#    L = task(z₁) + λ · ½·[KL(sg(p₂) ‖ p₁) + KL(sg(p₁) ‖ p₂)],    p = softmax(z),  sg: no gradient
#
# The same batch goes through the model twice, and the two predictions are to agree. What differs between the passes is
# chance: AdaMix's experts (arXiv 2205.12410, for which it is made; its released code takes λ = 1 on GLUE and 100 on
# generation), or dropout alone, when it is R-Drop. Values are compared by their squared difference, for the softmax of
# a single number is always 1. Without chance it is 0. It costs a second forward pass.


def consistency_weight(asked: float | None, method: str, kind: str) -> float:
    """λ: as asked; else the released code's for AdaMix, and 0 for every other method."""
    if asked is not None:
        return asked
    if not any(row.by_chance for row in rows_of(method)):
        return 0.0
    return 100.0 if kind == "generation" else 1.0


def consistent_loss_sum(
    model: PreTrainedModel, batch: Batch, kind: str, label_smoothing: float, weight: float
) -> tuple[Tensor, Tensor]:
    """(Σ of the task's loss of the first pass, λ·Σ of how far apart both are) over the batch's targets, float32.

    Raises `DataError` where labels are not known.
    """
    _check_labelled(batch)
    criterion = CRITERIA[kind]
    first, second = (criterion.predictions(model, batch) for _ in range(2))
    task = first.sum_of(label_losses, label_smoothing=label_smoothing)
    return task, weight * first.sum_of(criterion.distance, second.outputs_NC)


def divergence(first_NC: Tensor, second_NC: Tensor, reduction: str = "sum") -> Tensor:
    """½·[KL(sg(p₂) ‖ p₁) + KL(sg(p₁) ‖ p₂)] of two rows of logits: summed over N, or with "none" for each."""
    log_p, log_q = first_NC.log_softmax(-1), second_NC.log_softmax(-1)
    there = F.kl_div(log_p, log_q.detach(), reduction=reduction, log_target=True)
    back = F.kl_div(log_q, log_p.detach(), reduction=reduction, log_target=True)
    apart = 0.5 * (there + back)
    return apart if reduction == "sum" else apart.sum(-1)


def squared_difference(first_N1: Tensor, second_N1: Tensor, reduction: str = "sum") -> Tensor:
    """(v₁ − v₂)² of two values: summed over N, or with "none" for each."""
    apart = F.mse_loss(first_N1, second_N1, reduction=reduction)
    return apart if reduction == "sum" else apart.sum(-1)


CRITERIA = {
    "generation": Criterion(_token_loss_sum, _token_losses_by_row, _at_tokens, divergence),
    "classification": Criterion(_label_loss_sum, _label_losses, _at_labels, divergence),
    "regression": Criterion(_label_loss_sum, _label_losses, _at_labels, squared_difference),
}
"""By the kind of the task."""


# -- pairs of answers ---------------------------------------------------------------------------------------------
#
# A step of 2B rows costs a forward and a backward pass, about 3 F. The reference is one forward pass more, F: computed
# anew in every step it is a third more, E·F over E epochs; kept, it is F in all. It is computed for a pair's batch of
# the first epoch, whichever step needs it first: in the first epoch that is the step's own batch, so nothing is
# computed that is not needed, and a resumed run comes to the same numbers, bit for bit, from the same batches.


class Reference:
    """log π_ref of both answers of every pair that was needed so far, from the model without its adapter."""

    def __init__(self, model: PreTrainedModel, data: TrainingData) -> None:
        self.model = model
        self.data = data
        self.known: dict[int, tuple[float, float]] = {}

    def of(self, batch: Batch) -> Tensor:
        """[2B] in the order of the batch's rows. Processes that go in step all make as many passes as any needs."""
        processes, needed = self.data.processes, self._needed(batch)
        passes = processes.largest(len(needed)) if processes.in_step else len(needed)
        for each in needed:
            self._measure(each)
        for _ in range(passes - len(needed)):
            self._logs_of(batch)
        sides = zip(*(self.known[place] for place in batch.places), strict=True)
        return torch.tensor([value for side in sides for value in side], device=self.model.device)

    def _needed(self, batch: Batch) -> list[Batch]:
        """The batches of the first epoch in which pairs are that are not known."""
        unknown = {place for place in batch.places if place not in self.known}
        needed = []
        for place in batch.places:
            if place in unknown:
                needed.append(self.data.first_batch_with(place))
                unknown.difference_update(needed[-1].places)
        return needed

    def _measure(self, batch: Batch) -> None:
        chosen, rejected = (side.tolist() for side in self._logs_of(batch).chunk(2))
        self.known |= dict(zip(batch.places, zip(chosen, rejected, strict=True), strict=True))

    def _logs_of(self, batch: Batch) -> Tensor:
        with evaluating(self.model):
            return reference_logs(self.model, batch.to(self.model.device))


# -- the cosine penalty -------------------------------------------------------------------------------------------


class NeighbourCosine:
    """The cosine regulariser of "Your Transformer is Secretly Linear" (arXiv 2405.12250), of one model and weight λ.

        λ · mean over blocks ℓ of mean over real tokens of (1 − cos(h_ℓ, h_{ℓ+1}))        in float32

    h_ℓ is the residual stream that enters block ℓ; the last one leaves the last block, before the final norm. It pulls
    the states of neighbouring blocks together. The form of the sum is recalled, not confirmed, and λ is not known from
    the paper. Dividing by the number of blocks makes λ mean the same at every depth.
    """

    def __init__(self, blocks: nn.ModuleList, weight: float) -> None:
        self.blocks = blocks
        self.weight = weight
        self.states_BTD: dict[int, Tensor] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep the states of the last forward pass in here; what checkpointing repeats comes later and is not seen."""
        self.states_BTD.clear()
        hooks = [
            block.register_forward_pre_hook(self._enters(number), with_kwargs=True)
            for number, block in enumerate(self.blocks)
        ]
        hooks.append(self.blocks[-1].register_forward_hook(self._leaves))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def penalty(self, batch: Batch) -> Tensor:
        """λ times the mean of 1 − cos over blocks and real tokens of the pass just watched, a float32 scalar."""
        states = [self.states_BTD[number].float() for number in sorted(self.states_BTD)]
        distances_LBT = torch.stack([1 - F.cosine_similarity(h, after, dim=-1) for h, after in pairwise(states)])
        mask_BT = batch.attention_mask
        if mask_BT is None:
            return self.weight * distances_LBT.mean()
        if mask_BT.shape != distances_LBT.shape[1:]:
            raise SpecError("cosine_penalty does not work with a method that adds positions to the text; leave one out")
        return self.weight * (distances_LBT * mask_BT).sum() / (mask_BT.sum() * len(distances_LBT))

    def _enters(self, number: int) -> Any:
        def keep(block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            self.states_BTD[number] = args[0] if args else kwargs["hidden_states"]

        return keep

    def _leaves(self, block: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.states_BTD[len(self.blocks)] = output if isinstance(output, Tensor) else output[0]


def neighbour_cosine(model: nn.Module, weight: float) -> NeighbourCosine | None:
    """The regulariser of a model, or None for weight 0. SpecError for a model without one list of blocks."""
    if not weight:
        return None
    paths = block_paths(model)
    if len(paths) != 1:
        raise SpecError(
            f"cosine_penalty needs a model with one list of blocks, and {type(model).__name__} has "
            f"{len(paths)} that are known; leave it out"
        )
    blocks = model.get_submodule(paths[0])
    assert isinstance(blocks, nn.ModuleList)
    return NeighbourCosine(blocks, weight)
