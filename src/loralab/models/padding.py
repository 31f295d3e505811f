"""A text classifier's outputs, each row's what it would be alone: whatever pads, and whatever the model makes of it.

Where a decoder classifies, transformers reads the last token whose id is not `config.pad_token_id`, and looks at no
mask. So what is masked is given that id before the model sees it; a config without such an id (none, -1, one beyond the
vocabulary) reads the last token, and has an id lent for the call. What a model makes of padding is found out by trial,
once: one whose outputs move with it (XLNet reads the last place, FNet mixes all places) is run without any, rows of one
length together. It knows nothing of tasks and adapters.

Shapes: B rows, T tokens, C classes. All padding is on the right.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loralab.errors import DataError
from loralab.nn.mode import evaluating
from loralab.nn.rounding import same_but_for_rounding

Inputs = Mapping[str, Tensor]
"""By transformers' names: `input_ids` [B, T], `attention_mask` where something is padded, and others [B, T]."""

_unmoved: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def row_logits(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """The logits [B, C] of a classifier of texts or images.

    Raises `DataError` where an encoder-decoder finds no end of text, at which it reads.
    """
    if "input_ids" not in inputs:
        logits: Tensor = model(**inputs).logits
        return logits
    if _are_run_together(model, inputs):
        return _run(model, inputs)
    groups = _groups(model, inputs)
    outputs = torch.cat([_run(model, _rows(inputs, group)) for group in groups])
    return outputs[torch.cat(groups).argsort()]


def rows_together(model: PreTrainedModel, inputs: Inputs) -> Iterator[tuple[list[int], Inputs]]:
    """Which rows can share a call of `row_logits` that runs the model once, and their inputs."""
    if _are_run_together(model, inputs):
        yield list(range(len(inputs["input_ids"]))), inputs
        return
    for group in _groups(model, inputs):
        yield group.tolist(), _rows(inputs, group)


def _are_run_together(model: PreTrainedModel, inputs: Inputs) -> bool:
    """Whether the rows can share a call: nothing is padded, or the model does not mind."""
    if _reads_at_end(model) and len(set(_ends(model, inputs["input_ids"]).sum(1).tolist())) > 1:
        return False  # transformers wants all rows to have as many
    if "attention_mask" not in inputs:
        return True
    if _reads_at_end(model) and _own_padding(model) == _end_id(model):
        return False  # it would read the padding
    if model not in _unmoved:
        _unmoved[model] = _is_unmoved(model, inputs)
    return _unmoved[model]


@torch.no_grad()
def _is_unmoved(model: PreTrainedModel, inputs: Inputs) -> bool:
    """Whether a text has the outputs beside one of twice its length that it has alone."""
    longest = inputs["attention_mask"].sum(1).argmax()
    width = int(inputs["attention_mask"][longest].sum())
    whole = {name: each[longest : longest + 1, :width] for name, each in inputs.items()}
    kept = [*range(max(1, width // 2) - 1), width - 1]  # with its end, which some read
    half = {name: each[:, kept] for name, each in whole.items() if name != "attention_mask"}
    padded = {name: nn.functional.pad(each[:, kept], (0, width - len(kept))) for name, each in whole.items()}
    both = {name: torch.cat([each, padded[name]]) for name, each in whole.items()}
    with evaluating(model):
        alone, beside = _run(model, half)[0], _run(model, both)[1]
    return same_but_for_rounding(alone, beside, model.dtype)


def _groups(model: PreTrainedModel, inputs: Inputs) -> list[Tensor]:
    """The indices of the rows that are of one length, and have as many ends of text."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    real = torch.ones_like(ids) if mask is None else mask
    ends = _ends(model, ids) & (real != 0)
    groups: dict[tuple[int, int], list[int]] = {}
    for row, kind in enumerate(zip(real.sum(1).tolist(), ends.sum(1).tolist(), strict=True)):
        groups.setdefault(kind, []).append(row)
    return [torch.tensor(rows, device=ids.device) for rows in groups.values()]


def _rows(inputs: Inputs, rows: Tensor) -> dict[str, Tensor]:
    """Rows of one length, without their padding."""
    chosen = {name: each[rows] for name, each in inputs.items()}
    mask = chosen.pop("attention_mask", None)
    width = chosen["input_ids"].shape[1] if mask is None else int(mask[0].sum())
    return {name: each[:, :width] for name, each in chosen.items()}


def _run(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if _reads_at_end(model) and not _ends(model, ids).any(1).all():
        raise DataError(
            f"{type(model).__name__} reads a text at its end-of-text token, and one has none; take a tokenizer that "
            "ends a text with it, and a max_length that leaves it there"
        )
    pad = _own_padding(model)
    pad = _free_id(model, ids, mask) if pad is None else pad
    padded = ids if mask is None else ids.masked_fill(mask == 0, pad)
    with padding_lent(model, pad):
        logits: Tensor = model(**{**inputs, "input_ids": padded}).logits
    return logits


@contextmanager
def padding_lent(model: nn.Module, pad: int) -> Iterator[None]:
    """Within this block a config that names no token for padding names `pad`."""
    config: Any = model.config
    config, own = config.get_text_config(), _own_padding(model)
    before = getattr(config, "pad_token_id", None)
    config.pad_token_id = pad if own is None else own
    try:
        yield
    finally:
        config.pad_token_id = before


def _own_padding(model: nn.Module) -> int | None:
    """The id that the config names, where it is a token's."""
    config: Any = model.config
    config = config.get_text_config()
    own = getattr(config, "pad_token_id", None)
    return own if isinstance(own, int) and 0 <= own < getattr(config, "vocab_size", 0) else None


def _free_id(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor | None) -> int:
    """The lowest id that ends no row, so that every row is read where it ends."""
    last_B = ids_BT.shape[1] - 1 if mask_BT is None else mask_BT.sum(1) - 1
    ends = {*ids_BT[torch.arange(len(ids_BT), device=ids_BT.device), last_B].tolist(), _end_id(model)}
    return next(token for token in range(len(ends) + 1) if token not in ends)


def _reads_at_end(model: PreTrainedModel) -> bool:
    """Whether it is an encoder-decoder that reads at the last end-of-text token, as all but T5Gemma do."""
    return bool(getattr(model.config, "is_encoder_decoder", False)) and not model.config.model_type.startswith(
        "t5gemma"
    )


def _ends(model: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    return ids_BT == _end_id(model)


def _end_id(model: PreTrainedModel) -> int:
    """The end of text; an id that no token has where the config names none, or several."""
    end = getattr(model.config, "eos_token_id", None)
    return end if isinstance(end, int) else -1
