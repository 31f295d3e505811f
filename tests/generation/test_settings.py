"""Which of a model's own generation settings count: every field has a row, and hostile values change nothing."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers import GenerationConfig as TransformersConfig

from loralab.errors import SpecError
from loralab.generation.generate import GenerationConfig, generate_ids
from loralab.generation.settings import RULES, Rule, own_settings
from loralab.models.load import load_model
from tiny import byte_tokenizer

VOCABULARY = 258
IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
WIDTHS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LAYERS = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
SIZES = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64}
BART = IDS | LAYERS | SIZES | {"decoder_start_token_id": 1}
PROMPTS = [[10, 11, 12, 13, 10, 11, 12, 13], [40, 41, 42], [7]]


def of_berts() -> PreTrainedModel:
    widths = WIDTHS | {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**widths), BertConfig(**widths))
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 1
    return EncoderDecoderModel(config)


MAKERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **WIDTHS)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_positions=64, n_embd=16, n_layer=1, n_head=2)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BART)),
    "mbart": lambda: MBartForConditionalGeneration(MBartConfig(**BART)),
    "marian": lambda: MarianMTModel(MarianConfig(**BART)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    ),
    "berts": of_berts,
}
FOLDERS = ["llama", "bart", "mbart", "t5"]
WATERMARK = {"greenlist_ratio": 0.1, "bias": 50.0}
HOSTILE: dict[str, object] = {
    "max_length": 2,
    "min_length": 14,
    "min_new_tokens": 14,
    "max_time": 1e-9,
    "stop_strings": ["a", "e", " "],
    "do_sample": True,
    "temperature": 50.0,
    "top_k": 1,
    "top_p": 0.01,
    "min_p": 0.9,
    "top_h": 0.1,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.9,
    "eta_cutoff": 0.9,
    "num_beams": 3,
    "num_return_sequences": 2,
    "length_penalty": -9.0,
    "early_stopping": True,
    "repetition_penalty": 50.0,
    "encoder_repetition_penalty": 50.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "exponential_decay_length_penalty": [0, 100.0],
    "sequence_bias": [[[69], 90.0]],
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "guidance_scale": 30.0,
    "watermarking_config": WATERMARK,
    "token_healing": True,
    "use_cache": False,
    "cache_implementation": "static",
    "prefill_chunk_size": 1,
    "use_mtp": True,
    "is_assistant": True,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "penalty_alpha": 0.9,
    "dola_layers": "high",
    "num_beam_groups": 2,
    "diversity_penalty": 5.0,
    "force_words_ids": [[9]],
    "low_memory": True,
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "an_unknown_setting": 3,
}


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def written(model: PreTrainedModel, **changes: object) -> list[list[int]]:
    return generate_ids(model, PROMPTS, GenerationConfig(6, **changes), byte_tokenizer())


def hostile_settings(model: PreTrainedModel) -> Iterator[str]:
    """The name of each, while the model has it beside its own."""
    own = model.generation_config
    for setting, value in HOSTILE.items():
        model.generation_config = copy.deepcopy(own)
        setattr(model.generation_config, setting, value)
        yield setting


def test_every_field_of_the_installed_transformers_has_a_rule() -> None:
    assert sorted(set(vars(TransformersConfig())) - set(RULES)) == []


def test_every_field_that_could_do_harm_is_tried() -> None:
    harmless = {
        *("constraints", "cache_config", "max_cache_len", "compile_config", "disable_compile"),
        *("continuous_batching_config", "transformers_version", "_from_model_config", "speculation_type"),
        *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight", "max_matching_ngram_size"),
    }  # without an assistant, a static cache or a compiler they do nothing in transformers itself
    off = {name for name, rule in RULES.items() if rule is not Rule.MODEL} - {"eos_token_id", "pad_token_id"}
    assert off - harmless - {"max_new_tokens"} <= set(HOSTILE)


@pytest.mark.parametrize("name", MAKERS)
def test_no_recommendation_of_the_model_counts(name: str) -> None:
    model = made(name)
    before = {beams: written(model, beams=beams) for beams in (1, 2)}
    for setting in hostile_settings(model):
        assert {beams: written(model, beams=beams) for beams in (1, 2)} == before, setting


def test_no_recommendation_counts_for_sampling() -> None:
    model = made("llama")
    plain = written(model, temperature=1.5, top_p=0.9)
    for setting in hostile_settings(model):
        assert written(model, temperature=1.5, top_p=0.9) == plain, setting


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_all_at_once_from_either_file(tmp_path: Path, name: str, file: str) -> None:
    """`stop_strings`, `cache_implementation` and the like, as they stand in people's folders."""
    model = made(name)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    if file == "config.json":
        (tmp_path / "generation_config.json").unlink()
    plain = written(load_model(str(tmp_path), kind="generation", dtype="float32").model)
    path = tmp_path / file
    refused = {"return_dict_in_generate", "output_scores", "output_logits", "an_unknown_setting"}
    hostile = {setting: value for setting, value in HOSTILE.items() if setting not in refused}
    path.write_text(json.dumps(json.loads(path.read_text()) | hostile))
    assert written(load_model(str(tmp_path), kind="generation", dtype="float32").model) == plain


@pytest.mark.parametrize("name", MAKERS)
def test_what_belongs_to_the_model_is_kept(name: str) -> None:
    model = made(name)
    plain = [token for token in written(model)[0] if token != model.generation_config.forced_eos_token_id]
    model.generation_config.suppress_tokens = sorted(set(plain))
    assert not set(written(model)[0]) & set(plain)
    model = made(name)
    model.generation_config.bad_words_ids = [[token] for token in sorted(set(plain))]
    assert not set(written(model)[0]) & set(plain)
    model = made(name)
    model.generation_config.begin_suppress_tokens = plain[:1]
    assert written(model)[0][0] != plain[0]
    model = made(name)
    model.generation_config.forced_eos_token_id = 77
    assert written(model)[0][5:] in ([77], [])


@pytest.mark.parametrize("name", ["bart", "mbart", "marian", "t5", "berts"])
def test_what_a_decoder_begins_with_is_the_models(name: str) -> None:
    model = made(name)
    model.generation_config.forced_bos_token_id = 77
    assert all(ids[0] == 77 for ids in written(model))
    model = made(name)
    model.generation_config.decoder_start_token_id = 99
    by_hand = model(torch.tensor(PROMPTS[:1]), decoder_input_ids=torch.tensor([[99]])).logits[0, -1].argmax()
    assert written(model)[0][0] == int(by_hand)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_the_forced_first_token_comes_from_either_file(tmp_path: Path, file: str) -> None:
    made("bart").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    if file == "config.json":
        (tmp_path / "generation_config.json").unlink()
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"forced_bos_token_id": 77}))
    model = load_model(str(tmp_path), kind="generation", dtype="float32").model
    assert own_settings(model)["forced_bos_token_id"] == 77
    assert {ids[0] for ids in written(model)} == {77}


def test_settings_that_exclude_each_other_are_refused_by_name() -> None:
    model = made("bart")
    model.generation_config.forced_bos_token_id, model.generation_config.suppress_tokens = 77, [77]
    with pytest.raises(SpecError, match=r"generation settings .*forced_bos_token_id"):
        written(model)


def test_the_models_settings_come_back_also_after_an_error() -> None:
    model = made("llama")
    own = model.generation_config
    written(model)
    assert model.generation_config is own
    model.forward = None
    with pytest.raises(TypeError):
        written(model)
    assert model.generation_config is own
