import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from loralab.errors import SpecError
from loralab.evaluation.generate import generate
from loralab.generation.generate import GenerationConfig, generate_ids

PROMPTS = ["a longer prompt than", "the", "second one", "x"]
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def greedy_by_hand(model: PreTrainedModel, ids: list[int], steps: int) -> list[int]:
    for _ in range(steps):
        ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-steps:]


def ids_of(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


def test_a_padded_batch_gives_what_each_prompt_alone_gives(llama, tokenizer) -> None:
    found = generate_ids(llama, ids_of(tokenizer), GenerationConfig(max_new_tokens=6, batch_size=3), tokenizer)
    expected = [greedy_by_hand(llama, ids, 6) for ids in ids_of(tokenizer)]
    assert found == [ids[: ids.index(1)] if 1 in ids else ids for ids in expected]


def test_text_has_only_what_is_new(llama, tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=6)
    texts = generate(llama, tokenizer, PROMPTS, config)
    assert texts == [tokenizer.decode(ids) for ids in generate_ids(llama, ids_of(tokenizer), config, tokenizer)]
    assert generate(llama, tokenizer, []) == []


def test_the_end_of_text_stops(llama, tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=8)
    (whole,) = generate_ids(llama, ids_of(tokenizer)[:1], config, tokenizer)
    llama.generation_config.eos_token_id = [whole[2], 1]
    (stopped,) = generate_ids(llama, ids_of(tokenizer)[:1], config, tokenizer)
    assert stopped == whole[: whole.index(whole[2])]


def test_sampling_is_seeded_and_leaves_the_random_state_alone(llama, tokenizer) -> None:
    state = torch.get_rng_state()
    one, same, other = (
        generate(llama, tokenizer, PROMPTS, GenerationConfig(8, temperature=2.0, top_p=0.9, seed=seed))
        for seed in (1, 1, 2)
    )
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)


def test_the_models_own_sampling_settings_do_not_count(llama, tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=8)
    before = generate(llama, tokenizer, PROMPTS, config)
    llama.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0, top_k=3)
    assert generate(llama, tokenizer, PROMPTS, config) == before


def log_probability(model: PreTrainedModel, prompt: list[int], new: list[int]) -> float:
    scores = model(torch.tensor([prompt + new])).logits[0].detach().log_softmax(-1)
    return sum(float(scores[len(prompt) - 1 + place, token]) for place, token in enumerate(new))


def test_beams_find_a_likelier_text_than_greedy(llama, tokenizer) -> None:
    llama.generation_config.eos_token_id = tokenizer.eos_token = None
    prompts = ids_of(tokenizer)
    greedy = generate_ids(llama, prompts, GenerationConfig(6), tokenizer)
    beams = generate_ids(llama, prompts, GenerationConfig(6, beams=6), tokenizer)
    gains = [
        log_probability(llama, prompt, better) - log_probability(llama, prompt, plain)
        for prompt, better, plain in zip(prompts, beams, greedy, strict=True)
    ]
    assert min(gains) > -1e-4
    assert max(gains) > 0.1


def test_length_penalty_changes_lengths(llama, tokenizer) -> None:
    llama.lm_head.weight.data[1] *= 3  # an end that competes
    lengths = [
        sum(map(len, generate_ids(llama, ids_of(tokenizer), GenerationConfig(12, 4, penalty), tokenizer)))
        for penalty in (-2.0, 4.0)
    ]
    assert lengths[0] < lengths[1]


def test_no_sequence_twice_but_the_prompts_may_be_copied(llama, tokenizer) -> None:
    for parameter in llama.parameters():
        torch.nn.init.zeros_(parameter)
    (free,) = generate_ids(llama, [[7, 0, 0]], GenerationConfig(5), tokenizer)
    (held,) = generate_ids(llama, [[7, 0, 0]], GenerationConfig(5, no_repeat_ngram=2), tokenizer)
    assert free == [0, 0, 0, 0, 0]
    assert held[:2] == [0, 0]
    assert len({tuple(held[place : place + 2]) for place in range(len(held) - 1)}) == len(held) - 1


@pytest.mark.parametrize("beams", [1, 3])
def test_an_encoder_decoder(tokenizer, beams: int) -> None:
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    model = T5ForConditionalGeneration(T5Config(**config.to_dict() | {"decoder_start_token_id": 0})).eval()
    settings = GenerationConfig(5, beams=beams, no_repeat_ngram=2)
    together = generate_ids(model, ids_of(tokenizer), settings, tokenizer)
    alone = [generate_ids(model, [ids], settings, tokenizer)[0] for ids in ids_of(tokenizer)]
    assert together == alone
    assert any(together)


def test_the_context_is_a_limit(tokenizer) -> None:
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    assert len(generate_ids(model, [[5] * 10], GenerationConfig(6), tokenizer)[0]) <= 6
    with pytest.raises(SpecError, match=r"prompt 2 has 11 tokens and 6 new ones .* context is 16"):
        generate_ids(model, [[5], [5] * 11], GenerationConfig(6), tokenizer)


def test_the_mode_comes_back(llama, tokenizer) -> None:
    llama.train()
    generate(llama, tokenizer, ["a"], GenerationConfig(1))
    assert llama.training
