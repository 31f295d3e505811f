"""The cosine regulariser: its value on known states, its gradient in a real model, and what it leaves alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from loralab.errors import SpecError
from loralab.tasks.encoding.batches import Batch
from loralab.training.config import TrainConfig
from loralab.training.objective import NeighbourCosine, neighbour_cosine
from loralab.training.prepare import prepare

Configure = Callable[..., TrainConfig]


class Scaled(nn.Module):
    """A block that multiplies its input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * self.factor


def penalty_of(factors: list[float], weight: float, mask: list[list[int]] | None = None) -> float:
    blocks = nn.ModuleList(map(Scaled, factors))
    regularizer = NeighbourCosine(blocks, weight)
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with regularizer.watched():
        for block in blocks:
            x = block(hidden_states=x)
    inputs = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask)
    return float(regularizer.penalty(Batch(inputs, None, 6, 6)))


def test_parallel_states_cost_nothing_and_opposite_ones_twice_the_weight() -> None:
    assert penalty_of([3.0, 0.5], 0.1) == pytest.approx(0, abs=1e-7)
    assert penalty_of([-3.0, -0.5], 0.1) == pytest.approx(0.2)
    assert penalty_of([-3.0, 0.5], 0.1) == pytest.approx(0.1)


def test_padding_does_not_count() -> None:
    assert penalty_of([-1.0], 1.0, [[1, 1, 0], [1, 0, 0]]) == pytest.approx(2)


def test_it_changes_the_gradient_and_not_the_loss_that_is_reported(configured: Configure) -> None:
    losses, gradients = [], []
    for weight in (0.0, 5.0):
        trainee = prepare(configured(batch_size=8, cosine_penalty=weight), "float32").trainee
        losses.append(trainee.objective.backward(trainee.data.step(1)))
        gradients.append(torch.cat([p.grad.flatten() for p in trainee.adapter.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-2)


def test_accumulated_batches_and_checkpointing_are_the_same_objective(configured: Configure) -> None:
    gradients = []
    for flags in ({}, {"batch_size": 4, "accumulate": 2}, {"gradient_checkpointing": True}):
        settings = {"batch_size": 8, "limit": 8, "cosine_penalty": 1.0} | flags
        trainee = prepare(configured(**settings), "float32").trainee
        trainee.objective.backward(trainee.data.step(1))
        gradients.append(torch.cat([p.grad.flatten() for p in trainee.adapter.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[2], gradients[0], atol=1e-6, rtol=1e-4)
    assert torch.nn.functional.cosine_similarity(gradients[1], gradients[0], dim=0) > 0.99


def test_models_without_one_list_of_blocks() -> None:
    with pytest.raises(SpecError, match="one list of blocks, and Linear has 0"):
        neighbour_cosine(nn.Linear(2, 2), 0.1)
    assert neighbour_cosine(nn.Linear(2, 2), 0.0) is None
