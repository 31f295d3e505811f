"""Beam search on a model's own modules: several inputs at once, each prompt read once.

An input joins between two steps when another is done, so that every step is full; a step reads a token of every beam of
every input in one call, whose mask keeps the beams apart (`tree`). What is chosen is what transformers chooses
(`hypotheses`).

Shapes: I inputs, W beams, V vocabulary, T tokens.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from loralab.core.rows.call import with_cache
from loralab.errors import NumericsError, SpecError
from loralab.nn.mode import evaluating
from loralab.serving.engine.hypotheses import BeamSettings, Hypotheses, best_continuations
from loralab.serving.engine.tree import GROWTH, TreeCache

FULL, SLIDING = "full_attention", "sliding_attention"
MASKS = {"sdpa": "bool", "eager": "added"}
"""What the attention of a model takes masks as."""


@dataclass(frozen=True)
class Best:
    """The best hypothesis of an input, with the token that ended it, and its score."""

    number: int
    ids: list[int]
    score: float


@dataclass(eq=False)
class Input:
    """An input that is being searched, and its place among all."""

    number: int
    hypotheses: Hypotheses


class BeamSearch:
    """Searches on one model, which stays as it is, `inputs` inputs at once. Raises SpecError where it cannot."""

    def __init__(self, model: PreTrainedModel, settings: BeamSettings, inputs: int) -> None:
        self._model, self._settings, self._most = model, settings, inputs
        self._windows = windows_of(model)
        self._added_mask = MASKS[model.config._attn_implementation] == "added"
        takes = inspect.signature(model.forward).parameters
        self._last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._inputs: list[Input] = []

    @torch.inference_mode()
    def run(self, prompts: Sequence[Sequence[int]]) -> Iterator[Best]:
        """The best of each prompt (token ids, at least one), in the order in which they are done.

        Raises NumericsError where the model's scores are no numbers.
        """
        waiting = list(enumerate(prompts))[::-1]
        columns = max(map(len, prompts), default=0) + GROWTH
        cache = TreeCache(min(self._most, len(prompts)), self._settings.beams, columns, self._model.device)
        with evaluating(self._model):
            while waiting or self._inputs:
                while waiting and len(self._inputs) < self._most:
                    yield from self._joined(cache, *waiting.pop())
                if self._inputs:
                    yield from self._stepped(cache)

    # -- prompts --------------------------------------------------------------------------------------------------

    def _joined(self, cache: TreeCache, number: int, prompt: Sequence[int]) -> Iterator[Best]:
        """Read a prompt and choose the first tokens; all beams go on from it."""
        read = DynamicCache()
        logits_1TV: Tensor = self._model(
            input_ids=torch.tensor([list(prompt)], device=self._model.device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=self._model.device),
            position_ids=torch.arange(len(prompt), device=self._model.device)[None],
            **with_cache(self._model, read),
            use_cache=True,
            **self._last_logits_only,
        ).logits
        new = Input(number, Hypotheses(self._settings, self._model.device))
        cache.join(read.layers)  # type: ignore[arg-type]
        self._inputs.append(new)
        self._choose(cache, [new], logits_1TV[:, -1:].float().expand(-1, self._settings.beams, -1))
        yield from self._leaving(cache)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _stepped(self, cache: TreeCache) -> Iterator[Best]:
        """A token of every beam."""
        cache.open_columns()
        logits_IWV: Tensor = self._model(
            input_ids=torch.tensor([each.hypotheses.last for each in self._inputs], device=self._model.device),
            attention_mask=self._mask(cache),
            position_ids=cache.positions(),
            **with_cache(self._model, cache),
            use_cache=True,
        ).logits
        cache.advance()
        self._choose(cache, self._inputs, logits_IWV.float())
        yield from self._leaving(cache)

    def _choose(self, cache: TreeCache, inputs: list[Input], logits_IWV: Tensor) -> None:
        """The continuations of these inputs, which are the last ones of all."""
        log_sums_IW = logits_IWV.logsumexp(-1)
        if bool(log_sums_IW.isnan().any()):
            row = int(log_sums_IW.isnan().any(1).nonzero()[0])
            raise NumericsError(f"prompt {inputs[row].number + 1}: the model's scores of the next token are no numbers")
        first = len(self._inputs) - len(inputs)
        for place, (each, logits_WV, log_sums_W) in enumerate(zip(inputs, logits_IWV, log_sums_IW, strict=True), first):
            hypotheses = each.hypotheses
            hypotheses.forbid(logits_WV)
            count = self._settings.looked_at
            parents_W = hypotheses.extend(*best_continuations(logits_WV, hypotheses.scores_W, log_sums_W, count))
            cache.follow(place, parents_W)

    def _leaving(self, cache: TreeCache) -> Iterator[Best]:
        """Those that are done make room."""
        for place in range(len(self._inputs) - 1, -1, -1):
            done = self._inputs[place]
            if not done.hypotheses.is_done:
                continue
            cache.leave(place)
            last = self._inputs.pop()
            if last is not done:
                self._inputs[place] = last
            score, ids = done.hypotheses.best
            yield Best(done.number, ids, score)

    def _mask(self, cache: TreeCache) -> Tensor | dict[str, Tensor]:
        """What the beams look at, as the model's attention takes it: one mask, or one for each kind of layer."""
        if len(set(self._windows.values())) == 1 or not self._is_past_window(cache):
            return self._as_taken(cache.mask(next(iter(self._windows.values()))))
        return {kind: self._as_taken(cache.mask(window)) for kind, window in self._windows.items()}

    def _is_past_window(self, cache: TreeCache) -> bool:
        return max(cache.lengths) >= min(window for window in self._windows.values() if window is not None)

    def _as_taken(self, mask: Tensor) -> Tensor:
        if not self._added_mask:
            return mask
        lowest = torch.finfo(self._model.dtype).min
        return torch.zeros(mask.shape, dtype=self._model.dtype, device=mask.device).masked_fill(~mask, lowest)


def windows_of(model: PreTrainedModel) -> dict[str, int | None]:
    """How far the layers of each kind look back; None: at everything.

    Raises SpecError for a model whose attention cannot be given a mask of beams.
    """
    config, name = model.config.get_text_config(), type(model).__name__
    if model.config._attn_implementation not in MASKS:
        raise SpecError(f"{name}: a mask of beams does not fit {model.config._attn_implementation} attention")
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [FULL if window is None else SLIDING])
    if not kinds <= {FULL, SLIDING}:
        raise SpecError(f"{name}: a mask of beams does not fit layers of the kinds {', '.join(sorted(kinds))}")
    return {kind: window if kind == SLIDING else None for kind in sorted(kinds)}
