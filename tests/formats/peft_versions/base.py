"""The base of the adapters that lie here, made of sines, so that any torch makes the same one; and its inputs."""

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """An embedding, two dense layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 6)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(self.embedding(tokens))))))


def base() -> Small:
    """The same numbers everywhere."""
    model = Small().eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters(), start=1):
            parameter.copy_(waves(parameter.numel(), number).view(parameter.shape))
    return model


def waves(count: int, number: int) -> Tensor:
    return torch.sin(torch.arange(count, dtype=torch.float64) * (0.7 + 0.3 * number)).float() * 0.5


TOKENS = torch.arange(8).view(2, 4)
