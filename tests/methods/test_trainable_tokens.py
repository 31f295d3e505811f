"""Which rows of which modules are asked for, what cannot be, and what is said of it."""

import re
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

import loralab as ll
from loralab.core.updates.tokens import TokenUpdate
from small_models import CLASSIFIER, llama
from toys import Sandwich, give_effect


def t5() -> T5ForConditionalGeneration:
    sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 1, "num_heads": 4, "vocab_size": 64}
    return T5ForConditionalGeneration(T5Config(**sizes, pad_token_id=0, decoder_start_token_id=0))


def leaders(model: torch.nn.Module, tokens: Any, **fields: Any) -> dict[str, str]:
    adapter = ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=tokens, **fields))
    return {path: each.follows for path, each in adapter.updates.items() if isinstance(each, TokenUpdate)}


def test_a_list_is_of_the_input_embedding_and_what_is_tied_to_it() -> None:
    assert leaders(llama(), [4]) == {"model.embed_tokens": ""}
    assert leaders(llama(tie_word_embeddings=True), [4]) == {"model.embed_tokens": "", "lm_head": "model.embed_tokens"}
    beside = dict.fromkeys(("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"), "shared")
    assert leaders(t5(), [4], targets="q") == {"shared": "", **beside}


def test_a_mapping_names_modules_by_their_endings() -> None:
    both = {"lm_head": [4], "embed_tokens": [4]}
    assert leaders(llama(), both) == {"model.embed_tokens": "", "lm_head": ""}
    assert leaders(llama(tie_word_embeddings=True), both)["lm_head"] == "model.embed_tokens"
    assert leaders(llama(), {"model.embed_tokens": [4]}) == {"model.embed_tokens": ""}


def test_tied_modules_with_other_tokens_each_are_apart_and_that_is_said() -> None:
    model = llama(tie_word_embeddings=True)
    adapter = ll.attach(model, ll.LoRA(rank=2, trainable_token_indices={"embed_tokens": [4], "lm_head": [5]}))
    assert [update.follows for update in adapter.updates.values() if isinstance(update, TokenUpdate)] == ["", ""]
    assert sum("merging unties the two" in note for note in adapter.notes) == 2
    quiet = ll.attach(llama(tie_word_embeddings=True), ll.LoRA(rank=2, trainable_token_indices=[4]))
    assert not quiet.notes


def test_modules_that_share_a_bias_alone_are_not_tied() -> None:
    model = BertForMaskedLM(BertConfig(**CLASSIFIER))
    adapter = ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=[4]))
    assert not adapter.notes


def test_a_padding_token_is_said_to_have_no_gradient() -> None:
    adapter = ll.attach(llama(), ll.LoRA(rank=2, trainable_token_indices=[0, 4]))
    assert any("token 0 is the padding_idx of model.embed_tokens" in note for note in adapter.notes)


@pytest.mark.parametrize(
    "tokens, said",
    [
        ([], "names no token"),
        ({}, "names no token"),
        ({"embed_tokens": []}, "names no token"),
        ([4, -1], "holds -1; indices count from 0"),
        ([4, 5, 4], "holds 4 more than once"),
        ({"lm_head": [7, 7]}, r"trainable_token_indices\['lm_head'\] holds 7 more than once"),
        ([4.0], "trainable_token_indices is"),
        ("4,5", "trainable_token_indices is"),
        ([True], "trainable_token_indices is"),
    ],
)
def test_indices_that_cannot_be_are_refused_at_once(tokens: Any, said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.LoRA(trainable_token_indices=tokens)


@pytest.mark.parametrize("tokens", [[63, 64], {"embed_tokens": [64]}, {"lm_head": [70]}])
def test_a_token_beyond_the_vocabulary_wants_a_resized_model(tokens: Any) -> None:
    model = llama()
    with pytest.raises(ll.SpecError, match=r"has 64 rows \(0 to 63\).*resize_token_embeddings"):
        ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=tokens))
    model.resize_token_embeddings(72, mean_resizing=False)
    ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=tokens))


@pytest.mark.parametrize(
    "fields, tied",
    [
        ({"targets": "embed_tokens,q_proj"}, False),
        ({"targets": "q_proj,lm_head"}, True),
        ({"targets": "q_proj", "modules_to_save": ["embed_tokens"]}, False),
        ({"targets": "q_proj", "modules_to_save": ["lm_head"]}, True),
    ],
)
def test_a_module_that_is_adapted_otherwise_too_is_refused(fields: dict[str, Any], tied: bool) -> None:
    with pytest.raises(ll.SpecError, match="choose one"):
        ll.attach(llama(tie_word_embeddings=tied), ll.LoRA(rank=2, trainable_token_indices=[4], **fields))


def test_the_head_of_untied_weights_can_be_adapted_beside() -> None:
    assert leaders(llama(), [4], targets="q_proj,lm_head") == {"model.embed_tokens": ""}


def test_another_method_on_the_same_embedding_is_refused_instead_of_dropping_the_rows() -> None:
    joint = [ll.LoRA(rank=2, trainable_token_indices=[4]), ll.LoRA(rank=2, targets="embed_tokens")]
    with pytest.raises(ll.SpecError, match=re.escape("model.embed_tokens; choose one")):
        ll.attach(llama(), joint)


@pytest.mark.parametrize(
    "model, tokens, said",
    [
        (llama(), {"embed": [4]}, "no such module.*model.embed_tokens"),
        (llama(), {"model.layers.0.input_layernorm": [4]}, "has no rows"),
        (
            Sandwich(torch.nn.Linear(16, 4), lambda module, x: module(x)),
            [4],
            "does not say which module that is; name it",
        ),
        (torch.nn.Sequential(torch.nn.Embedding(8, 4, max_norm=1.0), torch.nn.Linear(4, 4)), {"0": [4]}, "max_norm"),
    ],
)
def test_what_is_no_embedding_is_refused_by_name(model: torch.nn.Module, tokens: Any, said: str) -> None:
    with pytest.raises(ll.TargetError, match=said):
        ll.attach(model, ll.LoRA(rank=2, targets=r".*(q_proj|inner|\.1|1)", trainable_token_indices=tokens))


def test_rows_train_where_the_batch_has_them_and_nowhere_else() -> None:
    model = llama()
    adapter = ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=[4, 40]))
    give_effect(adapter)
    model(input_ids=torch.arange(3, 13)[None]).logits.square().sum().backward()
    gradient = adapter.updates["model.embed_tokens"].rows_TH.grad
    assert gradient[0].any()
    assert not gradient[1].any()
