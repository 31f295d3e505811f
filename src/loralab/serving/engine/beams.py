"""Beam search: several inputs at once, each prompt read once.

An input joins between two steps when another is done, so that every step is full; a step reads a token of every beam of
every input in one call (`tree_steps`). What is chosen is what transformers chooses (`hypotheses`).

Shapes: I inputs, W beams, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.errors import NumericsError
from loralab.nn.mode import evaluating
from loralab.serving.engine.hypotheses import BeamSettings, Hypotheses, best_continuations
from loralab.serving.engine.tree import GROWTH, TreeCache
from loralab.serving.engine.tree_steps import TreeSteps, steps_for


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
    """Searches on one model, which stays as it is, `inputs` inputs at once.

    With `fused` a trial is made of fused blocks, with `pack` of weights copied into a quicker layout. SpecError for a
    model that cannot be searched.
    """

    def __init__(
        self, model: PreTrainedModel, settings: BeamSettings, inputs: int, *, fused: bool = False, pack: bool = False
    ) -> None:
        self._model, self._settings, self._most = model, settings, inputs
        self._fused, self._pack = fused, pack
        self._inputs: list[Input] = []

    @torch.inference_mode()
    def run(self, prompts: Sequence[Sequence[int]]) -> Iterator[Best]:
        """The best of each prompt (token ids, at least one), in the order in which they are done.

        Raises NumericsError where the model's scores are no numbers.
        """
        waiting = list(enumerate(prompts))[::-1]
        inputs, longest = min(self._most, len(prompts)), max(map(len, prompts), default=0)
        cache = TreeCache(inputs, self._settings.beams, longest + GROWTH, self._model.device)
        steps = self._steps(inputs, longest)
        with evaluating(self._model):
            while waiting or self._inputs:
                while waiting and len(self._inputs) < self._most:
                    joining = [waiting.pop() for _ in range(min(len(waiting), self._most - len(self._inputs)))]
                    yield from self._joined(steps, cache, joining)
                if self._inputs:
                    yield from self._stepped(steps, cache)

    def _steps(self, inputs: int, longest: int) -> TreeSteps:
        rows, length = inputs * self._settings.beams, longest + self._settings.max_new_tokens
        return steps_for(self._model, rows, length, self._fused, self._pack)

    def _joined(
        self, steps: TreeSteps, cache: TreeCache, joining: Sequence[tuple[int, Sequence[int]]]
    ) -> Iterator[Best]:
        """Read prompts and choose the first tokens of each; all its beams go on from it."""
        read = steps.read([prompt for _, prompt in joining])
        for (number, _), (known, logits_V) in zip(joining, read, strict=True):
            cache.join(known.layers)  # type: ignore[arg-type]
            self._inputs.append(Input(number, Hypotheses(self._settings, self._model.device)))
            self._choose(cache, len(self._inputs) - 1, logits_V.expand(self._settings.beams, -1))
        yield from self._leaving(cache)

    def _stepped(self, steps: TreeSteps, cache: TreeCache) -> Iterator[Best]:
        """A token of every beam."""
        cache.open_columns()
        logits_IWV = steps.logits([each.hypotheses.last for each in self._inputs], cache)
        for place, logits_WV in enumerate(logits_IWV):
            self._choose(cache, place, logits_WV)
        yield from self._leaving(cache)

    def _choose(self, cache: TreeCache, place: int, logits_WV: Tensor) -> None:
        """The continuations of an input."""
        chosen = self._inputs[place]
        logits_WV = logits_WV.to(torch.float32, copy=True)
        log_sums_W = logits_WV.logsumexp(-1)
        if bool(log_sums_W.isnan().any()):
            raise NumericsError(f"prompt {chosen.number + 1}: the model's scores of the next token are no numbers")
        hypotheses = chosen.hypotheses
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
