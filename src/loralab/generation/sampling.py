"""Sampling in which every prompt has a chance of its own: what is drawn for it depends on no other prompt of its batch.

Shapes: B prompts of a batch, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from loralab.generation.config import GenerationConfig


def sampled(config: GenerationConfig, numbers: Sequence[int]) -> LogitsProcessorList:
    """What draws the tokens of a batch's prompts, which have these numbers among all prompts: a greedy search behind it
    takes what was drawn. Nothing where the temperature is 0.
    """
    processors = LogitsProcessorList()
    if config.temperature > 0:
        processors.append(TemperatureLogitsWarper(config.temperature))
        if config.top_p < 1:
            processors.append(TopPLogitsWarper(config.top_p))
        processors.append(Draw([Random(f"{config.seed} {number}") for number in numbers]))
    return processors


class Draw(LogitsProcessor):
    """Draws a token for every row from what its scores say, by the row's own source of chance."""

    def __init__(self, sources: Sequence[Random]) -> None:
        self._sources = sources

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [B, V]; returned with 0 at the token drawn and −∞ at all others."""
        exact = scores.cpu() if scores.device.type == "mps" else scores  # Apple's devices have no float64
        up_to_BV = exact.softmax(-1, dtype=torch.float64).cumsum(-1)  # so far along is each token's end
        chance_B = torch.tensor([source.random() for source in self._sources], dtype=torch.float64)
        place_B1 = chance_B.to(exact.device)[:, None] * up_to_BV[:, -1:]
        drawn_B1 = torch.searchsorted(up_to_BV, place_B1, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn_B1.to(scores.device), 0.0)
