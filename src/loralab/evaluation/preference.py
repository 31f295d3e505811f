"""Pairs of answers, one preferred: losses and rewards. DPO (arXiv 2305.18290, eq. 7), ORPO (2403.07691, eq. 6).

With log π(y|x) the sum over the tokens of y, w the preferred answer and l the other:

    DPO     z = β·[log π(w) − log π_ref(w)] − β·[log π(l) − log π_ref(l)],    L = −(1−ε)·log σ(z) − ε·log σ(−z)
            ε = 0 is eq. 7; above it, pairs are taken to be labelled the wrong way round with that chance (cDPO)
    ORPO    m = log π / number of tokens,   o(m) = m − log(1 − eᵐ),          L = −m(w) − β·log σ(o(m(w)) − o(m(l)))

The reward of an answer is β·[log π − log π_ref] in DPO and β·o(m) in ORPO. The reference is the model without its
adapter. Measured of pairs: the loss; `reward_accuracy`, in how many of a hundred the preferred answer has the higher
reward (ties within rounding count half); `reward_margin`, by how much on average.

Shapes: B pairs, whose rows in a batch are all preferred answers first, then the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from loralab.core.attach import disabled
from loralab.errors import NumericsError
from loralab.evaluation.likelihood import row_log_likelihoods
from loralab.processes.group import ALONE, Processes
from loralab.tasks.encoding.batches import Batch, collate, longest_width, sorted_batches
from loralab.tasks.encoding.encoded import AnyEncoded
from loralab.tasks.preference import PreferenceObjective

TIED = 1e-6
"""Of the log-probabilities, the share by which rewards must differ to be told apart: with an adapter that does nothing
yet the model and its reference are equal but for rounding."""
SUREST = -1e-6
"""The largest mean log-probability whose odds are taken: at 0 they are infinite."""


@dataclass(frozen=True)
class PairScores:
    """What one objective makes of B pairs."""

    losses_B: Tensor
    chosen_B: Tensor
    """Rewards of the preferred answers."""
    rejected_B: Tensor


def score_pairs(
    objective: PreferenceObjective, logs_2B: Tensor, counts_2B: Tensor, reference_2B: Tensor | None = None
) -> PairScores:
    """From log π of each answer and its number of tokens, and log π_ref where the objective has a reference."""
    if objective.has_reference:
        assert reference_2B is not None
        chosen_B, rejected_B = (objective.beta * (logs_2B - reference_2B)).chunk(2)
        z_B, ε = chosen_B - rejected_B, objective.label_smoothing
        return PairScores(-(1 - ε) * F.logsigmoid(z_B) - ε * F.logsigmoid(-z_B), chosen_B, rejected_B)
    means_2B = logs_2B / counts_2B
    chosen_B, rejected_B = log_odds(means_2B).chunk(2)
    losses_B = -means_2B.chunk(2)[0] - objective.beta * F.logsigmoid(chosen_B - rejected_B)
    return PairScores(losses_B, objective.beta * chosen_B, objective.beta * rejected_B)


def log_odds(means: Tensor) -> Tensor:
    """m − log(1 − eᵐ), for mean log-probabilities."""
    means = means.clamp(max=SUREST)
    return means - torch.log(-torch.expm1(means))


@torch.no_grad()
def reference_logs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """log π_ref of each row [2B]: the model without its adapter."""
    with disabled(model):
        return row_log_likelihoods(model, batch)[0]


@torch.no_grad()
def measure_pairs(
    model: PreTrainedModel,
    encoded: Sequence[AnyEncoded],
    pad_id: int,
    batch_size: int,
    objective: PreferenceObjective,
    processes: Processes = ALONE,
) -> tuple[float, dict[str, float]]:
    """(the mean loss of a pair, the metrics), in the model's current mode.

    Raises `NumericsError` for a loss that is not finite.
    """
    longest = longest_width(encoded)

    def measure(places: list[int]) -> tuple[float, float, float]:
        batch = collate([encoded[place] for place in places], pad_id, longest=longest).to(model.device)
        reference = reference_logs(model, batch) if objective.has_reference else None
        logs_2B, counts_2B = row_log_likelihoods(model, batch)
        scores = score_pairs(objective, logs_2B, counts_2B, reference)
        apart_B = scores.chosen_B - scores.rejected_B
        tied_B = apart_B.abs() <= TIED * objective.beta * logs_2B.abs().view(2, -1).sum(0)
        won = float((apart_B[~tied_B] > 0).sum() + 0.5 * tied_B.sum())
        return float(scores.losses_B.sum()), won, float(apart_B.sum())

    measured = processes.map(measure, sorted_batches([each.tokens for each in encoded], batch_size), "batches")
    total, won, margin = (float(sum(each)) for each in zip(*measured, strict=True))
    if not math.isfinite(total):
        raise NumericsError(f"the loss is {total}; the model's weights or its precision are at fault")
    count = len(encoded)
    return total / count, {"reward_accuracy": 100 * won / count, "reward_margin": margin / count}
