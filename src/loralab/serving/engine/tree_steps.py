"""A step of a beam search: a token of every beam of every input in one call, whose attention keeps the beams apart.

By the model's own modules, whose masks say what a beam looks at, or by fused blocks, whose kernel goes along the path
of each beam through the columns of the cache.

Shapes: I inputs, W beams, V vocabulary, K prompts, R = I·W.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from loralab.core.rows.call import with_cache
from loralab.errors import SpecError
from loralab.nn.mode import evaluating
from loralab.serving.engine.decoder import Chunk
from loralab.serving.engine.fused.decoder import FusedDecoder
from loralab.serving.engine.fused.trial import decoder_for
from loralab.serving.engine.tree import TreeCache

FULL, SLIDING = "full_attention", "sliding_attention"
MASKS = {"sdpa": "bool", "eager": "added"}
"""What the attention of a model takes masks as."""
READ_TOGETHER = 1024
"""Tokens of prompts that fused blocks read in one walk."""

Prompts = Sequence[Sequence[int]]


class TreeSteps(Protocol):
    """Computes for a beam search. To be called in inference mode."""

    def read(self, prompts: Prompts) -> Iterator[tuple[DynamicCache, Tensor]]:
        """The keys and values of each prompt (token ids, at least one), and the logits [V] behind its last token."""

    def logits(self, newest: Sequence[Sequence[int]], cache: TreeCache) -> Tensor:
        """The logits [I, W, V] behind the newest token of every beam, which goes into the columns opened for it."""


def steps_for(model: PreTrainedModel, rows: int, length: int, fused: bool, pack: bool) -> TreeSteps:
    """The quickest that computes what the model does, of so many beams in all and tokens each.

    `fused` asks for fused blocks where a trial finds them right, and `pack` for weights copied into a quicker layout.
    SpecError for a model whose attention cannot be given a mask of beams.
    """
    own = OwnTreeSteps(model)
    decoder = decoder_for(model, rows, length, pack) if fused else None
    return FusedTreeSteps(decoder) if isinstance(decoder, FusedDecoder) and decoder.follows_paths else own


class OwnTreeSteps:
    """By the model's own modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises SpecError for a model whose attention cannot be given a mask of beams."""
        self._model = model
        self._windows = windows_of(model)
        self._added_mask = MASKS[model.config._attn_implementation] == "added"
        takes = inspect.signature(model.forward).parameters
        self._last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def read(self, prompts: Prompts) -> Iterator[tuple[DynamicCache, Tensor]]:
        """See `TreeSteps`; one after the other."""
        for prompt in prompts:
            read, device = DynamicCache(), self._model.device
            logits_1TV: Tensor = self._model(
                input_ids=torch.tensor([list(prompt)], device=device),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=device),
                position_ids=torch.arange(len(prompt), device=device)[None],
                **with_cache(self._model, read),
                use_cache=True,
                **self._last_logits_only,
            ).logits
            yield read, logits_1TV[0, -1]

    def logits(self, newest: Sequence[Sequence[int]], cache: TreeCache) -> Tensor:
        """See `TreeSteps`."""
        logits_IWV: Tensor = self._model(
            input_ids=torch.tensor([*newest], device=self._model.device),
            attention_mask=self._mask(cache),
            position_ids=cache.positions(),
            **with_cache(self._model, cache),
            use_cache=True,
        ).logits
        return logits_IWV

    def _mask(self, cache: TreeCache) -> Tensor | dict[str, Tensor]:
        """What the beams look at, as the model's attention takes it: one mask, or one for each kind of layer."""
        if len(set(self._windows.values())) == 1 or not self._is_past_window(cache):
            return self._as_taken(cache.mask(next(iter(self._windows.values()))))
        return {kind: self._as_taken(cache.mask(window)) for kind, window in self._windows.items()}

    def _is_past_window(self, cache: TreeCache) -> bool:
        return max(cache.lengths) > min(window for window in self._windows.values() if window is not None)

    def _as_taken(self, mask: Tensor) -> Tensor:
        if not self._added_mask:
            return mask
        lowest = torch.finfo(self._model.dtype).min
        return torch.zeros(mask.shape, dtype=self._model.dtype, device=mask.device).masked_fill(~mask, lowest)


class FusedTreeSteps:
    """By fused blocks, whose kernel follows paths."""

    def __init__(self, decoder: FusedDecoder) -> None:
        self._decoder = decoder

    def read(self, prompts: Prompts) -> Iterator[tuple[DynamicCache, Tensor]]:
        """See `TreeSteps`; as many at once as are not too long together."""
        for some in _together(prompts):
            chunks = [Chunk(prompt, None, DynamicCache()) for prompt in some]
            logits_KV = self._decoder.read(chunks)
            yield from zip([chunk.cache for chunk in chunks], logits_KV, strict=True)

    def logits(self, newest: Sequence[Sequence[int]], cache: TreeCache) -> Tensor:
        """See `TreeSteps`."""
        logits_RV = self._decoder.logits_along_paths([id for ids in newest for id in ids], cache)
        return logits_RV.view(len(newest), -1, logits_RV.shape[-1])


def _together(prompts: Prompts) -> Iterator[Prompts]:
    """In groups of at most READ_TOGETHER tokens; a longer prompt is a group of its own."""
    group: list[Sequence[int]] = []
    for prompt in prompts:
        if group and sum(map(len, group)) + len(prompt) > READ_TOGETHER:
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


def windows_of(model: PreTrainedModel) -> dict[str, int | None]:
    """How far the layers of each kind look back; None: at everything.

    Raises SpecError for a model whose attention cannot be given a mask of beams.
    """
    config, name = model.config.get_text_config(), type(model).__name__
    if model.config._attn_implementation not in MASKS:
        raise SpecError(f"{name}: a mask of beams does not fit {model.config._attn_implementation} attention")
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [SLIDING if window and _heeds_window(model) else FULL])
    if not kinds <= {FULL, SLIDING}:
        raise SpecError(f"{name}: a mask of beams does not fit layers of the kinds {', '.join(sorted(kinds))}")
    return {kind: window if kind == SLIDING else None for kind in sorted(kinds)}


@torch.inference_mode()
def _heeds_window(model: PreTrainedModel) -> bool:
    """Whether the window that the configuration names changes anything: files of families that have none name one too
    (a Llama made of a Mistral)."""
    config = model.config.get_text_config()
    window, ids = config.sliding_window, torch.tensor([[1, 2, 3, 4]], device=model.device) % config.vocab_size
    found = []
    try:
        for config.sliding_window in (2, len(ids[0])):
            with evaluating(model):
                found.append(model(input_ids=ids, use_cache=False).logits)
    finally:
        config.sliding_window = window
    return not torch.equal(*found)
