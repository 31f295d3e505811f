"""The losses of pairs of answers against their formulas, written again by hand in float64."""

import math

import pytest
import torch

from loralab.evaluation.preference import log_odds, score_pairs
from loralab.tasks.preference import PreferenceObjective

LOGS, COUNTS = [-3.0, -7.5, -4.0, -2.25], [2, 5, 4, 1]
REFERENCE = [-3.5, -7.0, -3.0, -2.5]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_is_equation_7(smoothing: float) -> None:
    logs, reference = (torch.tensor(each, dtype=torch.float64) for each in (LOGS, REFERENCE))
    scores = score_pairs(PreferenceObjective("dpo", 0.3, smoothing), logs, torch.tensor(COUNTS), reference)
    for b in range(2):
        z = 0.3 * (LOGS[b] - REFERENCE[b]) - 0.3 * (LOGS[b + 2] - REFERENCE[b + 2])
        loss = -(1 - smoothing) * math.log(sigmoid(z)) - smoothing * math.log(sigmoid(-z))
        assert float(scores.losses_B[b]) == pytest.approx(loss, rel=1e-12)
        assert float(scores.chosen_B[b] - scores.rejected_B[b]) == pytest.approx(z, rel=1e-12)


def test_orpo_is_equation_6() -> None:
    logs = torch.tensor(LOGS, dtype=torch.float64)
    scores = score_pairs(PreferenceObjective("orpo", 0.25), logs, torch.tensor(COUNTS))
    for b in range(2):
        p = [math.exp(LOGS[at] / COUNTS[at]) for at in (b, b + 2)]
        odds = [each / (1 - each) for each in p]
        loss = -math.log(p[0]) - 0.25 * math.log(sigmoid(math.log(odds[0] / odds[1])))
        assert float(scores.losses_B[b]) == pytest.approx(loss, rel=1e-12)


def test_the_odds_of_what_is_certain_are_finite() -> None:
    means = torch.tensor([0.0, -1e-9, -50.0], requires_grad=True)
    odds = log_odds(means)
    odds.sum().backward()
    assert torch.isfinite(odds).all()
    assert means.grad is not None
    assert torch.isfinite(means.grad).all()


def test_dpo_pulls_only_as_far_as_sigma_says() -> None:
    logs = torch.tensor(LOGS, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor(REFERENCE, dtype=torch.float64)
    score_pairs(PreferenceObjective("dpo", 0.3), logs, torch.tensor(COUNTS), reference).losses_B.sum().backward()
    z = 0.3 * (LOGS[0] - REFERENCE[0] - LOGS[2] + REFERENCE[2])
    assert logs.grad is not None
    assert float(logs.grad[0]) == pytest.approx(-0.3 * sigmoid(-z), rel=1e-12)
    assert float(logs.grad[2]) == pytest.approx(0.3 * sigmoid(-z), rel=1e-12)
