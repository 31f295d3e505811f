"""Which prompts share a batch: all, padded, where the model does not mind; else those of one length, or none.

A decoder's prompts are padded on the left, an encoder's on the right, under a mask. Some models ignore the mask (XLNet,
RecurrentGemma), and then continue a prompt otherwise beside a longer one; transformers' RWKV mixes the rows of a batch
when it reads its state. Which they are is found out by trial, not by name.

Shapes: B prompts of a batch, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.errors import SpecError
from loralab.generation.config import GenerationConfig
from loralab.generation.settings import generating_with
from loralab.nn.rounding import same_but_for_rounding

Prompts = Sequence[list[int]]

TRIED_STEPS = 2
"""New tokens of the trial: the second is read from the cache."""


def batches(model: PreTrainedModel, prompts: Prompts, config: GenerationConfig, pad_id: int) -> list[list[int]]:
    """The numbers of the prompts that share a batch, alike long ones beside each other.

    Raises `SpecError` for a beam search, which is a batch of beams, in a model whose rows are not apart.
    """
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    groups: list[list[int]] | None = [order]
    if order and max(config.beams, min(config.batch_size, len(order))) > 1:
        groups = _groups(model, prompts, order, pad_id)
        if config.beams > 1 and groups is None:
            raise SpecError(
                f"{type(model).__name__} gives a row other logits beside other rows than alone, so that {config.beams} "
                "beams would disturb each other; set beams 1"
            )
    if groups is None:
        return [[number] for number in order]
    size = config.batch_size
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def _groups(model: PreTrainedModel, prompts: Prompts, order: list[int], pad_id: int) -> list[list[int]] | None:
    """Which prompts may be together: all, or those of one length; None where each is to be alone.

    By trial on the shortest beside the longest, then beside as many tokens of that.
    """
    short, long = prompts[order[0]], prompts[order[-1]]
    if _is_unmoved(model, short, long, pad_id):
        return [order]
    if _is_unmoved(model, short, long[-len(short) :], pad_id):
        return [list(group) for _, group in groupby(order, lambda number: len(prompts[number]))]
    return None


def padded(model: PreTrainedModel, prompts: Prompts, pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [B, T]."""
    width, left = max(map(len, prompts)), not model.config.is_encoder_decoder
    rows = [_pad(ids, width, pad_id, left) for ids in prompts]
    mask = [_pad([1] * len(ids), width, 0, left) for ids in prompts]
    return {
        "input_ids": torch.tensor(rows, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


def _is_unmoved(model: PreTrainedModel, prompt: list[int], other: list[int], pad_id: int) -> bool:
    """Whether a prompt has the logits beside another one that it has alone."""
    alone, beside = _first_logits(model, [prompt], pad_id), _first_logits(model, [other, prompt], pad_id)
    return same_but_for_rounding(alone, beside, model.dtype)


def _first_logits(model: PreTrainedModel, prompts: Prompts, pad_id: int) -> Tensor:
    """Of the last prompt's first new tokens, [T, V]."""
    asked = {"max_new_tokens": TRIED_STEPS, "pad_token_id": pad_id, "eos_token_id": None, "do_sample": False}
    asked |= {"return_dict_in_generate": True, "output_logits": True}
    with generating_with(model, asked) as settings:
        trial = model.generate(**padded(model, prompts, pad_id), generation_config=settings)  # type: ignore[operator]
    return torch.stack([each[-1] for each in trial.logits])


def _pad(row: list[int], width: int, value: int, left: bool) -> list[int]:
    padding = [value] * (width - len(row))
    return padding + row if left else row + padding
