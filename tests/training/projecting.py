"""A small net of every kind of dense layer, its full gradients, and an optimizer on projected ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.methods.projected import ProjectedFineTune
from loralab.training.projected_adamw import ProjectedAdamW

WEIGHTS = ("low", "wide", "square", "stored_low", "stored_wide")


class Net(nn.Module):
    """Fewer outputs than inputs, more, and as many; two stored transposed; a norm; all in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Linear(12, 6)
        self.wide = nn.Linear(6, 10, bias=False)
        self.square = nn.Linear(10, 10)
        self.stored_low = Conv1D(6, 10)
        self.stored_wide = Conv1D(9, 6)
        self.norm = nn.LayerNorm(9)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.low, self.wide, self.square, self.stored_low, self.stored_wide):
            x = torch.tanh(layer(x))
        return self.norm(x)


def net() -> Net:
    """The same in every call."""
    torch.manual_seed(0)
    made = Net()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return made


def batch(number: int) -> Tensor:
    """[4, 5, 12]: another one for each number."""
    return torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def loss_of(model: nn.Module, number: int) -> Tensor:
    """Of one batch; its gradient is not zero anywhere."""
    out: Tensor = model(batch(number))
    return (out - torch.linspace(-1, 1, 9, dtype=torch.float64)).square().mean()


def on(model: nn.Module, spec: ProjectedFineTune, **changes: Any) -> tuple[Adapter, ProjectedAdamW]:
    """The adapter and its optimizer, as `train` makes them."""
    config = ll.TrainConfig(model="", task="", out="unused", **{"lr": 0.05, "eps": 1e-12} | changes)
    adapter = ll.attach(model, spec)
    return adapter, ProjectedAdamW(adapter, spec, config)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """One step on one batch."""
    loss_of(model, number).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def weights(adapter: Adapter) -> dict[str, Tensor]:
    """Copies of what trains, by name."""
    return {name: tensor.detach().clone() for name, tensor in adapter.named_parameters()}


def full_gradients(adapter: Adapter, number: int) -> dict[str, Tensor]:
    """Of every trained tensor as it is now, by name: from plain torch on a net with these values."""
    model = net()
    model.load_state_dict(adapter.state_dict())
    loss_of(model, number).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class _Shapes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if "mm" in function.name() and isinstance(result, Tensor):
            self.products.append(tuple(result.shape))
        return result


@contextmanager
def products() -> Iterator[Callable[[], list[tuple[int, ...]]]]:
    """Within this: the shapes of all matrix products so far."""
    mode = _Shapes()
    with mode:
        yield lambda: mode.products
