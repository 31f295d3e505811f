"""Sampling: by the model's probabilities, from the seed, and for each prompt as if it were alone."""

from collections import Counter
from random import Random

import pytest
import torch

from loralab.generation.generate import GenerationConfig, generate_ids
from loralab.generation.sampling import Draw, sampled

PROMPTS = [[66] * length for length in (9, 2, 5, 2, 7)]


def test_what_is_drawn_does_not_depend_on_the_batch(llama, tokenizer) -> None:
    by_size = [
        generate_ids(llama, PROMPTS, GenerationConfig(8, temperature=1.5, top_p=0.95, batch_size=size), tokenizer)
        for size in (1, 2, 5)
    ]
    assert by_size[0] == by_size[1] == by_size[2]
    assert by_size[0][1] != by_size[0][3]  # the same prompt twice: two chances
    more = generate_ids(llama, [*PROMPTS, [80] * 3], GenerationConfig(8, temperature=1.5, top_p=0.95), tokenizer)
    assert more[:5] == by_size[0]


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    draw = Draw([Random(number) for number in range(8000)])
    (scores,) = [draw(torch.empty(8000, 0), probabilities.log().expand(8000, 4))]
    counts = Counter(scores.argmax(1).tolist())
    assert [counts[token] / 8000 for token in range(4)] == pytest.approx(probabilities.tolist(), abs=0.02)
    assert torch.equal(scores.exp().sum(1), torch.ones(8000))


def test_only_the_most_probable_share_is_drawn_from() -> None:
    scores = torch.tensor([[0.4, 0.35, 0.25]]).log()
    found = {
        int(sampled(GenerationConfig(temperature=1.0, top_p=0.6, seed=seed), [0])(torch.empty(1, 0), scores).argmax())
        for seed in range(40)
    }
    assert found == {0, 1}


def test_a_token_that_cannot_be_is_never_drawn(llama, tokenizer) -> None:
    config = GenerationConfig(24, temperature=3.0, no_repeat_ngram=1)
    for ids in generate_ids(llama, PROMPTS, config, tokenizer):
        assert len(set(ids)) == len(ids)


def test_a_higher_temperature_is_flatter() -> None:
    scores = torch.tensor([0.9, 0.1]).log().expand(4000, 2)
    shares = [
        float(sampled(GenerationConfig(temperature=heat), range(4000))(torch.empty(4000, 0), scores).argmax(1).sum())
        / 4000
        for heat in (0.5, 1.0, 5.0)
    ]
    assert shares == pytest.approx([0.012, 0.1, 0.392], abs=0.02)
