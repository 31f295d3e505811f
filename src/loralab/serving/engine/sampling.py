"""The next token of one row, from its scores and its own source of chance: no other row has a part in it.

Shapes: R rows, V tokens of the vocabulary.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from loralab.serving.engine.request import Request, Token

FRONT = 256
"""Of so many of the likeliest tokens one is drawn, where it is one of them: a vocabulary takes milliseconds to sort."""


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
        scaled_V, chance = scores_V / sampling.temperature, self._chance.random()
        drawn = self._drawn_among(*_likeliest(scaled_V, FRONT), scaled_V, chance)
        if drawn is None:
            drawn = self._drawn_among(*_likeliest(scaled_V, len(scaled_V)), scaled_V, chance)
        assert drawn is not None, "all tokens are among all tokens"
        return drawn

    def _drawn_among(self, sorted_F: Tensor, ids_F: Tensor, scaled_V: Tensor, chance: float) -> int | None:
        """Which of the likeliest F tokens is drawn; None where the chance falls on one that is not among them."""
        sampling, is_whole = self._request.sampling, len(sorted_F) == len(scaled_V)
        if sampling.top_k:
            if not is_whole and len(sorted_F) < sampling.top_k:
                return None
            sorted_F, is_whole = sorted_F[: sampling.top_k], True
        total = (sorted_F if is_whole else scaled_V.double()).logsumexp(-1)
        up_to_F = (sorted_F - total).exp().cumsum(-1)
        kept = int((up_to_F < sampling.top_p).sum()) + 1  # the first token that completes top_p is kept
        if not is_whole and kept > len(up_to_F) and sampling.top_p < 1:
            return None
        limit = 1.0 if not is_whole and kept > len(up_to_F) else float(up_to_F[min(kept, len(up_to_F)) - 1])
        found = int(torch.searchsorted(up_to_F, chance * limit, right=True))
        return int(ids_F[min(found, len(ids_F) - 1)]) if is_whole or found < len(ids_F) else None

    def _told(self, id: int, scores_V: Tensor) -> Token:
        if self._request.logprobs is None:
            return Token(self._request, id)
        logprobs_V = scores_V.float().log_softmax(-1)
        top = logprobs_V.topk(min(self._request.logprobs, len(logprobs_V)))
        likeliest = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        return Token(self._request, id, float(logprobs_V[id]), likeliest)


def _likeliest(scaled_V: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The largest scores, at least so many and all that equal the last, from the largest on, in float64; and whose they
    are. Of equals the first comes first."""
    ids = torch.arange(len(scaled_V), device=scaled_V.device)
    if most < len(scaled_V):
        ids = (scaled_V >= scaled_V.topk(most).values[-1]).nonzero()[:, 0]
    sorted_F, order_F = scaled_V[ids].double().sort(descending=True, stable=True)
    return sorted_F, ids[order_F]
