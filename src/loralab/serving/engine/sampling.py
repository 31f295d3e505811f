"""The next token of one row, from its scores and its own source of chance: no other row has a part in it.

Shapes: R rows, V tokens of the vocabulary.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from loralab.serving.engine.request import Request, Token


def chosen(choosers: Sequence["Chooser"], scores_RV: Tensor) -> list[Token | None]:
    """The next token of every row; None where its scores are not all finite."""
    finite = torch.isfinite(scores_RV.sum(-1, dtype=torch.float32)).tolist()
    greedy = any(each.takes_likeliest for each in choosers)
    # in bfloat16 torch looks for the largest one number at a time
    likeliest = scores_RV.float().argmax(-1).tolist() if greedy else [0] * len(choosers)
    return [
        None if not is_finite else chooser.take(id) if chooser.takes_likeliest else chooser.choose(scores_V)
        for chooser, scores_V, is_finite, id in zip(choosers, scores_RV, finite, likeliest, strict=True)
    ]


class Chooser:
    """Chooses the tokens of one answer, one after another."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._chance = Random(f"{request.sampling.seed}")
        self._written: Counter[int] = Counter()

    def choose(self, scores_V: Tensor) -> Token:
        """The next token, from what the model scores it."""
        pick = self._request.pick
        id = self._drawn(self._changed(scores_V.float())) if pick is None else pick(scores_V.float())
        self._written[id] += 1
        return self._told(id, scores_V)

    @property
    def takes_likeliest(self) -> bool:
        """Whether it is the token that the model scores highest, of which nothing else is told."""
        sampling = self._request.sampling
        changed = sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias
        plain = self._request.pick is None and self._request.logprobs is None
        return plain and sampling.temperature == 0 and not changed

    def take(self, id: int) -> Token:
        """That token."""
        return Token(self._request, id)

    def _changed(self, scores_V: Tensor) -> Tensor:
        """Scores under penalties and biases."""
        sampling = self._request.sampling
        if sampling.presence_penalty or sampling.frequency_penalty:
            scores_V = scores_V.clone()
            for id, times in self._written.items():
                scores_V[id] -= sampling.presence_penalty + times * sampling.frequency_penalty
        if sampling.logit_bias:
            ids, biases = zip(*sampling.logit_bias.items(), strict=True)
            scores_V = scores_V.index_add(0, torch.tensor(ids, device=scores_V.device), scores_V.new_tensor(biases))
        return scores_V

    def _drawn(self, scores_V: Tensor) -> int:
        sampling = self._request.sampling
        if sampling.temperature == 0:
            return int(scores_V.argmax())
        sorted_V, ids_V = (scores_V / sampling.temperature).double().sort(descending=True, stable=True)
        if sampling.top_k:
            sorted_V[sampling.top_k :] = -torch.inf
        up_to_V = sorted_V.softmax(-1).cumsum(-1)
        kept = int((up_to_V < sampling.top_p).sum()) + 1  # the first token that completes top_p is kept
        place = self._chance.random() * up_to_V[min(kept, len(up_to_V)) - 1]
        return int(ids_V[torch.searchsorted(up_to_V, place, right=True).clamp(max=len(ids_V) - 1)])

    def _told(self, id: int, scores_V: Tensor) -> Token:
        if self._request.logprobs is None:
            return Token(self._request, id)
        logprobs_V = scores_V.float().log_softmax(-1)
        top = logprobs_V.topk(min(self._request.logprobs, len(logprobs_V)))
        likeliest = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        return Token(self._request, id, float(logprobs_V[id]), likeliest)
