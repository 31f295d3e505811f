import json
from pathlib import Path

import pytest
import torch

from loralab.errors import LoralabError, SpecError
from loralab.experiments.latency.config import LatencyConfig
from loralab.experiments.latency.model import timed_model
from tiny import SMALL, write_bert, write_llama, write_t5, write_vit

WRITERS = {"llama": write_llama, "bert": write_bert, "t5": write_t5, "vit": write_vit}


def config(model: object, **changes: object) -> LatencyConfig:
    settings = {"settings": ("1x16",), "dtype": "float32"}
    return LatencyConfig(model=str(model), **settings | changes)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_model_of_tokens_in_evaluation_mode(tmp_path: Path, kind: str) -> None:
    found = timed_model(config(WRITERS[kind](tmp_path / kind)))
    assert not found.model.training
    assert not found.random
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    assert found.model.config.use_cache is False


def test_random_weights_need_a_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 64, **SMALL}))
    state = torch.get_rng_state()
    one, two = (timed_model(config(tmp_path, random=True, dtype="bfloat16")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (one.random, one.dtype) == (True, torch.bfloat16)
    assert "the weights are random: latency does not depend on their values" in one.notes
    for first, second in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("kind, found", [("t5", "seq2seq-lm"), ("vit", "image-classification")])
def test_models_that_take_more_or_other_than_tokens(tmp_path: Path, kind: str, found: str) -> None:
    with pytest.raises(
        SpecError, match=f"is loaded as {found}: its latency cannot be measured; choose a decoder or an encoder of text"
    ):
        timed_model(config(WRITERS[kind](tmp_path / kind)))


def test_sequences_longer_than_the_context(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "llama")
    with pytest.raises(SpecError, match=r"1x257, 2x300 asks for longer sequences than .* is 256 tokens"):
        timed_model(config(folder, settings=("1x256", "1x257", "2x300")))


def test_a_model_that_does_not_fit_is_refused_before_it_is_made() -> None:
    with pytest.raises(SpecError, match=r"'gpt3-175b' needs \d+\.\d GB"):
        timed_model(config("gpt3-175b"))


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(LoralabError, match="no such folder"):
        timed_model(config("nowhere/nothing"))
