"""The engine writes what transformers' `generate` writes; what it does not know is not given to it."""

import logging

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import loralab as ll
from loralab.errors import NumericsError
from loralab.generation import continuous
from loralab.generation.config import GenerationConfig
from loralab.generation.continuous import generate_continuously
from loralab.generation.ends import NO_MORE, Ends
from loralab.generation.generate import end_ids, generate_ids
from loralab.generation.plain import generate_plainly
from loralab.generation.stream import TextStream
from loralab.generation.suited import suits_engine
from serving.causal import CAUSAL, ENDS, GROUPED, SIZES, adapt, causal, prompts

FAMILIES = CAUSAL | {
    "norms of q and k": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8, **ENDS)),
    "parallel blocks": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**SIZES, intermediate_size=64, max_position_embeddings=64, **ENDS)
    ),
}
WAYS = {
    "greedy": GenerationConfig(12, batch_size=2),
    "no repetition": GenerationConfig(12, no_repeat_ngram=1, batch_size=2),
    "sampled": GenerationConfig(12, temperature=1.5, top_p=0.9, seed=3, batch_size=2),
    "beams": GenerationConfig(12, beams=3, length_penalty=0.9, no_repeat_ngram=2, batch_size=2),
}
LENGTHS = (9, 3, 1, 13, 2, 20)
MORE_ENDS = Ends(tokens=(40, 41, 42, 43))


def strong(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = FAMILIES[kind]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def plainly(
    model: PreTrainedModel, config: GenerationConfig, tokenizer: PreTrainedTokenizerFast, ends: Ends = MORE_ENDS
) -> list[list[int]]:
    asked = prompts(*LENGTHS)
    return generate_plainly(model, asked, config, tokenizer, ends, end_ids(model, tokenizer, ends), 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_tokens_are_those_of_transformers(kind: str, way: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model, config = strong(kind), WAYS[way]
    assert suits_engine(model, prompts(*LENGTHS), config) == ((kind, way) != ("distances (ALiBi)", "beams"))
    expected = plainly(model, config, tokenizer)
    assert generate_ids(model, prompts(*LENGTHS), config, tokenizer, MORE_ENDS) == expected
    assert any(expected)


def test_a_live_adapter_speaks(tokenizer: PreTrainedTokenizerFast) -> None:
    model = causal("llama")
    base = generate_ids(model, prompts(*LENGTHS), WAYS["greedy"], tokenizer)
    adapt(model, one=4)
    found = generate_ids(model, prompts(*LENGTHS), WAYS["greedy"], tokenizer)
    assert found == plainly(model, WAYS["greedy"], tokenizer, NO_MORE) != base
    ll.activate(model, None)
    assert generate_ids(model, prompts(*LENGTHS), WAYS["greedy"], tokenizer) == base


@pytest.mark.parametrize("kind", FAMILIES)
def test_fused_blocks_write_what_transformers_writes(
    kind: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do where many tokens are wanted; under an adapter, and the base again afterwards."""
    monkeypatch.setattr(continuous, "WORTH_A_TRIAL", 0)
    model = strong(kind)
    adapt(model, one=4)
    for speaker, way in (("one", "greedy"), ("one", "sampled"), (None, "no repetition")):
        ll.activate(model, speaker)
        expected = plainly(model, WAYS[way], tokenizer)
        assert generate_ids(model, prompts(*LENGTHS), WAYS[way], tokenizer, MORE_ENDS) == expected


def up_to(text: str, ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The first of these tokens that hold a text; all, where they do not."""
    return next((ids[:end] for end in range(len(ids) + 1) if text in tokenizer.decode(ids[:end])), ids)


def test_an_ending_text_ends_an_answer(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    config, asked = GenerationConfig(12), [tokenizer(text)["input_ids"] for text in ("a prompt", "b", "another one")]
    whole = generate_ids(llama, asked, config, tokenizer)
    ends = Ends(texts=(tokenizer.decode(whole[0][3:5]),))
    assert suits_engine(llama, asked, config)
    found = generate_ids(llama, asked, config, tokenizer, ends)
    assert found == [up_to(ends.texts[0], ids, tokenizer) for ids in whole]
    assert len(found[0]) < len(whole[0])


def test_a_stream_is_given_the_tokens_as_they_come(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    asked, pieces = [tokenizer("a prompt")["input_ids"]], []
    stream = TextStream(tokenizer, pieces.append, end_ids(llama, tokenizer), NO_MORE)
    (ids,) = generate_ids(llama, asked, GenerationConfig(9), tokenizer, streamer=stream)
    assert stream.ids == ids
    assert "".join(pieces) == stream.text()


def against(
    model: PreTrainedModel, caplog: pytest.LogCaptureFixture, config: GenerationConfig | None = None, longest: int = 4
) -> str:
    """Why this model's prompts go to transformers."""
    with caplog.at_level(logging.DEBUG, logger="loralab.generation.suited"):
        assert not suits_engine(model, prompts(3, longest), config or GenerationConfig(4))
    return caplog.text


@pytest.mark.parametrize(
    "setting", [{"suppress_tokens": [5]}, {"bad_words_ids": [[7]]}, {"forced_eos_token_id": 2}, {"of_its_own": 3}]
)
def test_a_setting_that_the_engine_does_not_know_goes_to_transformers(
    setting: dict[str, object], caplog: pytest.LogCaptureFixture, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = strong("llama")
    for name, value in setting.items():
        setattr(model.generation_config, name, value)
    assert f"generation settings have {next(iter(setting))}" in against(model, caplog)
    if "suppress_tokens" in setting:
        assert all(5 not in ids for ids in generate_ids(model, prompts(3, 4), GenerationConfig(20), tokenizer))


def test_what_keeps_another_cache_goes_to_transformers(caplog: pytest.LogCaptureFixture) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)).eval()
    assert "MambaForCausalLM cannot be served" in against(mamba, caplog)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 97}
    assert "encoder-decoder" in against(T5ForConditionalGeneration(T5Config(**sizes)).eval(), caplog)


def test_rows_and_trained_positions_go_to_transformers(
    caplog: pytest.LogCaptureFixture, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = causal("llama")
    adapt(model, one=2)
    with ll.rows(model, ["one", None]):
        assert "rows()" in against(model, caplog)
    ll.detach(model)
    ll.attach(model, ll.PrefixEmbedding(prefix=3, infix=2))
    for config in (WAYS["greedy"], WAYS["beams"]):
        against(model, caplog, config)
        assert generate_ids(model, prompts(*LENGTHS), config, tokenizer) == plainly(model, config, tokenizer, NO_MORE)


def test_a_trial_is_of_the_adapter_that_speaks(caplog: pytest.LogCaptureFixture) -> None:
    model = causal("llama")
    assert suits_engine(model, prompts(3), GenerationConfig(4))
    ll.attach(model, ll.PrefixEmbedding(prefix=3, infix=2))
    against(model, caplog)
    ll.detach(model)
    assert suits_engine(model, prompts(3), GenerationConfig(4))


def test_positions_that_the_longest_text_stretches_go_to_transformers(caplog: pytest.LogCaptureFixture) -> None:
    model = causal("llama")
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert suits_engine(model, prompts(3), GenerationConfig(4))
    assert "stretched by the longest text" in against(model, caplog, longest=61)


def test_scores_that_are_not_finite_are_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    model = causal("llama")
    model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(NumericsError, match="prompt 1: the model's scores of token 1 are not finite"):
        generate_continuously(model, prompts(4), GenerationConfig(3), tokenizer, NO_MORE, [])
