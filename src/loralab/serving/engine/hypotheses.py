"""The hypotheses of one input: what its beams have written, what is finished, and when no better can come.

The rule is transformers' (`early_stopping=False`), so that scores and outputs are: of all continuations the best
(1 + ends)·W are looked at, of which the first W may finish and the first W that do not finish go on; a finished one
counts Σ log p / length^penalty; the input is done when W are finished and the best that goes on, were it to end as long
as it is, would not be better than the worst of them.

Shapes: W beams, K continuations that are looked at, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = -1e9
"""A score that no text has: of a beam that does not go on."""


@dataclass(frozen=True, kw_only=True)
class BeamSettings:
    """What is asked of a beam search."""

    beams: int
    max_new_tokens: int
    length_penalty: float = 1.0
    """Finished hypotheses are ranked by Σ log p / length^penalty."""
    no_repeat_ngram: int = 0
    """No hypothesis holds the same so many tokens twice; the prompt's are not counted. 0: it may."""
    ends: frozenset[int] = frozenset()
    """Tokens that finish a hypothesis, which holds them as its last."""
    is_ended: Callable[[Sequence[int]], bool] | None = None
    """Whether new tokens finish a hypothesis beside that (by the text that they are)."""

    @property
    def looked_at(self) -> int:
        """K."""
        return max(2, 1 + len(self.ends)) * self.beams


class Hypotheses:
    """Of one input."""

    def __init__(self, settings: BeamSettings, device: torch.device) -> None:
        self._settings = settings
        self.running: list[list[int]] = [[] for _ in range(settings.beams)]
        """The new tokens of every beam."""
        self.scores_W = torch.full((settings.beams,), NEVER, device=device)
        """Σ log p of every beam; at the beginning all are one."""
        self.scores_W[0] = 0
        self._finished: list[tuple[float, list[int]]] = []
        self._length = 0
        self._is_stuck = False

    @property
    def is_done(self) -> bool:
        """Whether nothing better can come, or nothing more may."""
        settings = self._settings
        if self._is_stuck:
            return True
        worst = self._finished[-1][0] if len(self._finished) == settings.beams else NEVER
        return self._length > 0 and not self._ranked(float(self.scores_W[0]), self._length) > worst

    @property
    def best(self) -> tuple[float, list[int]]:
        """Its score, and its tokens with the one that ended it."""
        return self._finished[0]

    @property
    def last(self) -> list[int]:
        """The newest token of every beam."""
        return [ids[-1] for ids in self.running]

    def forbid(self, logits_WV: Tensor) -> None:
        """Put −∞ where a token would repeat what may not be repeated."""
        size = self._settings.no_repeat_ngram
        if not size:
            return
        places = [(row, token) for row, ids in enumerate(self.running) for token in _repeating(ids, size)]
        if places:
            rows, tokens = torch.tensor(places, device=logits_WV.device).T
            logits_WV[rows, tokens] = -torch.inf

    def extend(self, scores_K: Tensor, parents_K: Tensor, tokens_K: Tensor) -> Tensor:
        """Go on with the best continuations, the best first; the beams [W] that those go on from."""
        candidates = [
            [*self.running[parent], token] for parent, token in zip(parents_K.tolist(), tokens_K.tolist(), strict=True)
        ]
        self._length += 1
        ended = [self._ends(ids) for ids in candidates]
        self._is_stuck = all(ended)
        beams = self._settings.beams
        for score, ids, is_end in zip(scores_K[:beams].tolist(), candidates, ended, strict=False):
            if is_end:
                self._finish(self._ranked(score, self._length), ids)
        going_K = scores_K + torch.tensor(ended, device=scores_K.device) * NEVER
        chosen_W = going_K.topk(beams).indices
        self.running = [candidates[place] for place in chosen_W.tolist()]
        self.scores_W = going_K[chosen_W]
        return parents_K[chosen_W]

    def _ends(self, ids: list[int]) -> bool:
        settings = self._settings
        by_text = settings.is_ended is not None and settings.is_ended(ids)
        return ids[-1] in settings.ends or self._length == settings.max_new_tokens or by_text

    def _ranked(self, score: float, length: int) -> float:
        return float(score / length**self._settings.length_penalty)

    def _finish(self, score: float, ids: list[int]) -> None:
        """Among the W best that are finished; of two alike the earlier stays before."""
        self._finished.append((score, ids))
        self._finished.sort(key=lambda each: -each[0])
        del self._finished[self._settings.beams :]


def _repeating(ids: list[int], size: int) -> set[int]:
    """The tokens that would complete `size` tokens which are there already."""
    if len(ids) < size:  # as many more than there are cannot be a repetition
        return set()
    begun = ids[len(ids) - size + 1 :]
    return {ids[place + size - 1] for place in range(len(ids) - size + 1) if ids[place : place + size - 1] == begun}


def best_continuations(logits_WV: Tensor, scores_W: Tensor, log_sums_W: Tensor, count: int) -> tuple[Tensor, ...]:
    """Scores, beams and tokens [K] of the best continuations; log p is logits − log Σ exp, per beam.

    The best of each beam come first, in which the best of all are.
    """
    top = logits_WV.topk(min(count, logits_WV.shape[1]))
    scores = (top.values - log_sums_W[:, None]) + scores_W[:, None]
    best = scores.flatten().topk(min(count, scores.numel()))
    return best.values, best.indices // scores.shape[1], top.indices.flatten()[best.indices]
