"""Gradients of several processes, summed: all that travels in a step. The base stays where it is.

One sum over one flat buffer: the gradients, a flag for each that says whether there is one, and the loss. What has no
gradient in any process has none afterwards, so that the optimizer leaves it alone as it does in one process.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from loralab.processes.group import Processes


def add_up_gradients(processes: Processes, parameters: Iterable[nn.Parameter], loss: float) -> float:
    """Let every gradient become the sum over all processes; returns the sum of their losses."""
    if not processes.are_several:
        return loss
    bearing = list({id(each): each for each in parameters}.values())
    flat = processes.add_up(_flattened(bearing, loss))
    sizes = [each.numel() for each in bearing]
    *gradients, there, whole_loss = torch.split(flat, [*sizes, len(bearing), 1])
    for parameter, gradient, is_there in zip(bearing, gradients, there.tolist(), strict=True):
        parameter.grad = gradient.view(parameter.shape).to(parameter.dtype) if is_there else None
    return float(whole_loss)


def _flattened(parameters: list[nn.Parameter], loss: float) -> Tensor:
    """Zeros stand for a gradient that is not there."""
    device = parameters[0].device
    pieces = [
        torch.zeros(each.numel(), device=device) if each.grad is None else each.grad.reshape(-1).float()
        for each in parameters
    ]
    there = [float(each.grad is not None) for each in parameters]
    return torch.cat([*pieces, torch.tensor([*there, loss], device=device)])
