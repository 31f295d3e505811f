"""How a token is chosen from its scores."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from loralab.serving.engine import sampling
from loralab.serving.engine.request import Request, SamplingSettings
from loralab.serving.engine.sampling import Chooser

SCORES = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def drawn(scores: torch.Tensor, count: int, **settings: object) -> Counter[int]:
    """How often each token is drawn, each time by another seed."""
    found: Counter[int] = Counter()
    for seed in range(count):
        asked = Request(prompt=(0,), max_new_tokens=1, sampling=SamplingSettings(seed=seed, **settings))  # type: ignore[arg-type]
        found[Chooser(asked).choose(scores).id] += 1
    return found


@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (3, 1.0), (0, 0.8), (4, 0.9)])
def test_tokens_come_as_often_as_transformers_says(top_k: int, top_p: float) -> None:
    scores = SCORES[None] / 1.3
    if top_k:
        scores = TopKLogitsWarper(top_k)(torch.zeros(1, 0), scores)  # type: ignore[no-untyped-call]
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(torch.zeros(1, 0), scores)  # type: ignore[no-untyped-call]
    expected = scores.softmax(-1)[0]
    found = drawn(SCORES, 2000, temperature=1.3, top_k=top_k, top_p=top_p)
    for token, share in enumerate(expected.tolist()):
        assert found[token] / 2000 == pytest.approx(share, abs=0.04)
        assert share > 0 or found[token] == 0


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize(
    "settings", [{}, {"top_p": 0.7}, {"top_p": 0.999}, {"top_k": 5}, {"top_k": 700, "top_p": 0.9}, {"temperature": 0.2}]
)
def test_the_likeliest_are_sorted_alone_where_that_says_the_same(
    settings: dict[str, Any], spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of scores in bfloat16, many of which are equal."""
    scores = (spread * torch.randn(3000, generator=torch.Generator().manual_seed(0))).bfloat16()
    some = drawn(scores, 40, **{"temperature": 1.0, **settings})
    monkeypatch.setattr(sampling, "FRONT", len(scores))
    assert drawn(scores, 40, **{"temperature": 1.0, **settings}) == some
    assert len(some) > 1 or spread > 1


def test_penalties_count_what_was_written() -> None:
    chooser = Chooser(
        Request(prompt=(0,), max_new_tokens=9, sampling=SamplingSettings(presence_penalty=0.9, frequency_penalty=0.4))
    )
    assert [chooser.choose(SCORES).id for _ in range(4)] == [0, 1, 0, 2]


def test_a_bias_moves_a_token() -> None:
    asked = Request(prompt=(0,), max_new_tokens=1, sampling=SamplingSettings(logit_bias={5: 100.0, 0: -100.0}))
    assert Chooser(asked).choose(SCORES).id == 5


def test_logprobs_are_the_models_own() -> None:
    asked = Request(prompt=(0,), max_new_tokens=1, sampling=SamplingSettings(logit_bias={5: 100.0}), logprobs=2)
    token = Chooser(asked).choose(SCORES)
    own = SCORES.log_softmax(-1)
    assert token.logprob == pytest.approx(float(own[5]))
    assert [id for id, _ in token.likeliest] == [0, 1]
    assert token.likeliest[0][1] == pytest.approx(float(own[0]))
