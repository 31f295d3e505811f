"""Inputs of some of a batch's sequences taken out of all of them, and outputs of groups of sequences put together."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from loralab.errors import AdapterStateError

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Enum, torch.dtype, torch.device)
"""What is the same for every sequence."""


def select(inputs: Any, sequences: Tensor, count: int, dimension: int = 0) -> Any:
    """Keep some sequences of every tensor in a nest of tuples, lists and dicts.

    A tensor whose size is a multiple of `count` holds each sequence's entries side by side, as models do that
    flatten batch and positions; tensors of any other size are the same for the whole batch. Any other object may hold
    something of every sequence, or remember the first group's when the second comes: AdapterStateError.
    """
    if isinstance(inputs, Tensor):
        if inputs.dim() <= dimension or inputs.shape[dimension] % count or inputs.shape[dimension] == 0:
            return inputs
        per_sequence = (*inputs.shape[:dimension], count, -1, *inputs.shape[dimension + 1 :])
        return inputs.reshape(per_sequence).index_select(dimension, sequences).flatten(dimension, dimension + 1)
    if isinstance(inputs, dict):
        return {key: select(value, sequences, count, dimension) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(select(value, sequences, count, dimension) for value in inputs)
    if not isinstance(inputs, _PLAIN):
        raise AdapterStateError(
            f"rows() met a module that is given a {type(inputs).__name__}, which cannot be divided among sequences; a "
            "cache is not given with use_cache=False. Otherwise run the adapters in separate batches"
        )
    return inputs


def join(outputs: Sequence[Any], order: Tensor, dimension: int = 0) -> Any:
    """Concatenate tensors, or nests of them, along the batch and reorder the sequences."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return select(torch.cat(list(outputs), dimension), order, len(order), dimension)
    if isinstance(first, (tuple, list)):
        return type(first)(join(group, order, dimension) for group in zip(*outputs, strict=True))
    if first is None:
        return None
    raise AdapterStateError(
        f"rows() met a module that returns {type(first).__name__}, which cannot be put together from parts; "
        "run the adapters in separate batches"
    )
