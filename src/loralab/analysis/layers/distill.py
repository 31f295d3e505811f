"""Affine blocks trained to follow the model whose blocks they stand for ("Your Transformer is Secretly Linear").

    L = KL(p_teacher ‖ p_student) + w·Σ_ℓ mean_i MSE_n(h_ℓi student, h_ℓi teacher) / Var_n(h_ℓi teacher)

The divergence is of the next-token distributions, in nats, a mean over the real tokens n. The sum goes over the blocks
of the student from the first affine one on, h_ℓ being what leaves one; before it both models are the same. The error
of each coordinate i is taken relative to the teacher's variance in it, as 1 − R² is, a mean over coordinates. The
stream grows with depth, and the first token's state is a hundred times the others' in a few coordinates: the plain MSE
would be of those alone, and one relative to each token's own norm of the few tokens that wrongly become so large.

The paper's abstract has the loss of language modelling (or the divergence) plus a sum of per-layer MSEs; how they are
weighted and normalised is ours. Only the affine blocks are trained, each weight in units of what it connects: the
deviation of what a coordinate of the stream is given over that of the one it reads. These differ by orders of
magnitude, and a step as large for one as for another would be of the largest alone. It knows nothing of files and of
how maps are fitted.

Shapes: B sequences, T tokens, N real tokens of a batch, D width of the stream, V vocabulary.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from loralab.analysis.layers.stream import looked_at
from loralab.analysis.layers.texts import TokenBatch
from loralab.errors import NumericsError, SpecError
from loralab.models.surgery.blocks import AffineBlock, Run, blocks_of, replace_blocks
from loralab.nn.mode import evaluating
from loralab.progress import tracked

EPSILON = 1e-6
"""Adam's: gradients below it, of a map with nothing to gain, do not become whole steps."""


@dataclass(frozen=True, kw_only=True)
class Distilling:
    """How long and how fast; 0 steps is no distillation."""

    steps: int = 0
    lr: float = 1e-3
    batch: int = 2
    """Pieces of text in a step."""
    states: float = 1.0
    """w, the weight of the states' errors; 0 leaves the divergence alone."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or not self.lr > 0 or not self.states >= 0:
            raise SpecError(
                f"distillation of {self.steps} steps of {self.batch} pieces, learning rate {self.lr}, weight of the "
                f"states {self.states}: steps and weight cannot be negative, a batch has 1 piece at least, and the "
                "learning rate is above 0"
            )


@dataclass(frozen=True)
class Distance:
    """How far a student is from its teacher: both terms of the loss, not weighted."""

    divergence: float
    """KL(teacher ‖ student), nats per token."""
    states: float
    """Σ over blocks of the mean 1 − R² of a coordinate."""


@dataclass(frozen=True)
class TeacherAndStudent:
    """A teacher and its student, which shares all its tensors but for the affine blocks'."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    compared: tuple[tuple[int, int], ...]
    """(level of the student, level of the teacher at which the stream should be the same); a level as `stream` counts
    it."""
    blocks: tuple[tuple[Run, AffineBlock], ...]
    """The affine ones, in the teacher's numbers."""

    @property
    def trained(self) -> tuple[nn.Parameter, ...]:
        """Weight and bias of each affine block."""
        return tuple(parameter for _, block in self.blocks for parameter in (block.weight, block.bias))


def pair(teacher: PreTrainedModel, blocks: Mapping[Run, AffineBlock]) -> TeacherAndStudent:
    """The student has these blocks in the place of its runs; the teacher stays as it is. Raises as `replace_blocks`."""
    tensors = chain(teacher.parameters(), teacher.buffers())
    student = copy.deepcopy(teacher, {id(each): each for each in tensors})
    replace_blocks(student, blocks)
    ends = dict(blocks.keys())
    inside = {number for start, end in blocks for number in range(start, end)}
    sources = [number for number in range(len(blocks_of(teacher))) if number in ends or number not in inside]
    compared = [(place + 1, ends.get(number, number + 1)) for place, number in enumerate(sources)]
    first = sources.index(min(ends))
    return TeacherAndStudent(teacher, student, tuple(compared[first:]), tuple(blocks.items()))


def distill(models: TeacherAndStudent, batches: Sequence[TokenBatch], distilling: Distilling) -> list[float]:
    """Train the affine blocks in place, a batch a step (again from the first when they are through), with Adam whose
    rate falls to zero in a straight line; the loss of each step. Raises NumericsError for one that is not finite.
    """
    losses: list[float] = []
    with _trainable(models), evaluating(models.teacher), evaluating(models.student):
        units = parameter_units(models, batches[0])
        fitted = [each.detach().clone() for each in models.trained]
        moved = [nn.Parameter(torch.zeros_like(each)) for each in fitted]
        optimizer = torch.optim.Adam(moved, lr=distilling.lr, eps=EPSILON)
        for step in tracked(range(distilling.steps), "steps"):
            optimizer.param_groups[0]["lr"] = distilling.lr * (1 - step / distilling.steps)
            loss, gradients = _loss_and_gradients(models, batches[step % len(batches)], distilling.states)
            losses.append(loss)
            if not math.isfinite(loss):
                raise NumericsError(f"distillation: the loss of step {step + 1} is {loss}; lower --distill-lr")
            for each, gradient, unit in zip(moved, gradients, units, strict=True):
                each.grad = gradient * unit
            optimizer.step()
            _place(models, fitted, moved, units)
    return losses


@torch.no_grad()
def distance(models: TeacherAndStudent, batches: Sequence[TokenBatch]) -> Distance:
    """Both terms over all tokens of these batches."""
    sums, tokens = torch.zeros(2, dtype=torch.float64), 0
    with evaluating(models.teacher), evaluating(models.student):
        for batch in tracked(batches, "batches"):
            count = int(batch.mask_BT.sum())
            sums += count * torch.stack(distances(models, batch)).double().cpu()
            tokens += count
    return Distance(*(sums / tokens).tolist())


@torch.no_grad()
def parameter_units(models: TeacherAndStudent, batch: TokenBatch) -> list[Tensor]:
    """For each trained parameter its unit, in the same shape: of weight [i, j] τ_i/σ_j, of bias [i] τ_i.

    σ_j is the deviation of coordinate j of what enters the block's run in the teacher, τ_i of what the run adds to
    coordinate i, over the batch's tokens. A coordinate that is constant has unit 0: its weights stay.
    """
    mask_BT = batch.mask_BT.to(models.teacher.device)
    levels = sorted({level for run, _ in models.blocks for level in run})
    states: dict[int, Tensor] = {}
    with looked_at(models.teacher, levels, states.__setitem__):
        models.teacher(input_ids=batch.ids_BT.to(mask_BT.device), attention_mask=mask_BT.long(), use_cache=False)
    units: list[Tensor] = []
    for (start, end), _ in models.blocks:
        read_D = states[start][mask_BT].std(0, correction=0)
        given_D = (states[end] - states[start])[mask_BT].std(0, correction=0)
        per_read_D = torch.where(read_D > 0, 1 / read_D, 0.0)
        units += [given_D[:, None] * per_read_D[None, :], given_D]
    return units


def distances(models: TeacherAndStudent, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """(the divergence, the sum of the states' errors) of a batch, differentiable in the affine blocks."""
    mask_BT = batch.mask_BT.to(models.teacher.device)
    with torch.no_grad():
        expected, expected_NV = _run(models.teacher, batch, mask_BT, [theirs for _, theirs in models.compared])
    found, found_NV = _run(models.student, batch, mask_BT, [mine for mine, _ in models.compared])
    errors = [relative_error(mine, theirs) for mine, theirs in zip(found, expected, strict=True)]
    return divergence(expected_NV, found_NV), torch.stack(errors).sum()


def relative_error(found_ND: Tensor, expected_ND: Tensor) -> Tensor:
    """mean_i MSE_n / Var_n over the coordinates that vary, a scalar: 0 for equal states, 1 for their mean instead."""
    variance_D = expected_ND.var(0, correction=0)
    varies_D = variance_D > 0
    error_D = (found_ND - expected_ND).square().mean(0)
    return (error_D[varies_D] / variance_D[varies_D]).sum() / max(1, int(varies_D.sum()))


def divergence(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    """mean_n KL(softmax teacher ‖ softmax student) of logits, in nats, a scalar."""
    return F.kl_div(student_NV.log_softmax(1), teacher_NV.log_softmax(1), reduction="batchmean", log_target=True)


def _loss_and_gradients(
    models: TeacherAndStudent, batch: TokenBatch, weight: float
) -> tuple[float, tuple[Tensor, ...]]:
    between, states = distances(models, batch)
    loss = between + weight * states
    return float(loss.detach()), torch.autograd.grad(loss, models.trained)


@torch.no_grad()
def _place(
    models: TeacherAndStudent, fitted: Sequence[Tensor], moved: Sequence[Tensor], units: Sequence[Tensor]
) -> None:
    """The affine blocks become the fitted ones and what they were moved by."""
    for parameter, start, each, unit in zip(models.trained, fitted, moved, units, strict=True):
        torch.addcmul(start, each, unit, out=parameter.data)


def _run(
    model: PreTrainedModel, batch: TokenBatch, mask_BT: Tensor, levels: Sequence[int]
) -> tuple[list[Tensor], Tensor]:
    """The stream [N, D] at each of these levels, and the logits [N, V]; of the real tokens."""
    states: dict[int, Tensor] = {}
    with looked_at(model, levels, states.__setitem__):
        ids_BT = batch.ids_BT.to(model.device)
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False).logits
    return [states[level][mask_BT] for level in levels], logits_BTV[mask_BT]


@contextmanager
def _trainable(models: TeacherAndStudent) -> Iterator[None]:
    """Within this only the affine blocks want a gradient; afterwards each parameter is as it was."""
    frozen = [(each, each.requires_grad) for each in chain(models.student.parameters(), models.trained)]
    try:
        for parameter, _ in frozen:
            parameter.requires_grad_(False)
        for parameter in models.trained:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, wanted in frozen:
            parameter.requires_grad_(wanted)
            parameter.grad = None
