"""`rows` where the sequences are not simply outermost: found out, or refused by name, and never mixed up."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Llama4ForCausalLM,
    Llama4TextConfig,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

import loralab as ll
from toys import give_effect, quiet

VOCABULARY = 40


class BatchSecondInside(nn.Module):
    """torch's default layout between an embedding and a classifier that have the batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.last = nn.Embedding(VOCABULARY, 16), nn.Linear(16, 4)
        layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.encoder(self.tokens(ids).transpose(0, 1)).transpose(0, 1))


class FlattenedBatchSecond(nn.Module):
    """[T·S, …] inside."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.inner = nn.Embedding(VOCABULARY, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x_TSI = self.tokens(ids).transpose(0, 1)
        return self.inner(x_TSI.reshape(-1, 16)).view(x_TSI.shape).transpose(0, 1)


class Experts(nn.Module):
    """Each expert gets those tokens of the whole batch that are routed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.experts = nn.Embedding(VOCABULARY, 16), nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = ids % 2 == number
            y[chosen] = expert(x[chosen])
        return y


class Recurrent(nn.Module):
    """Its state is [layers, S, …], beside an output [S, T, …]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.cells, self.last = (
            nn.Embedding(VOCABULARY, 16),
            nn.GRU(16, 8, batch_first=True),
            nn.Linear(8, 4),
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.cells(self.tokens(ids))[1][-1])


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32))


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes))


def llama4() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "intermediate_size_mlp": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 2}
    return Llama4ForCausalLM(Llama4TextConfig(vocab_size=VOCABULARY, **sizes, **heads))


def output(model: nn.Module, ids: Tensor) -> Tensor:
    named = {"input_ids": ids, "decoder_input_ids": ids} if isinstance(model, T5ForConditionalGeneration) else None
    result = quiet_call(model, **named) if named else quiet(model, ids)
    return result if isinstance(result, Tensor) else result.logits


@torch.no_grad()
def quiet_call(model: nn.Module, **named: Any) -> Any:
    return model(**named)


def adapted(model: nn.Module, target: str, **fields: Any) -> nn.Module:
    for name in ("a", "b"):
        give_effect(ll.attach(model.eval(), ll.LoRA(rank=2, targets=[target], **fields), name), 0.3)
    return model


def one_by_one(model: nn.Module, ids: Tensor, names: Sequence[str | None]) -> Tensor:
    found = []
    for sequence, name in zip(ids, names, strict=True):
        ll.activate(model, name)
        found.append(output(model, sequence[None]))
    return torch.cat(found)


CASES: list[tuple[Callable[[], nn.Module], str]] = [
    (BatchSecondInside, "linear1"),
    (BatchSecondInside, "self_attn"),
    (BatchSecondInside, "last"),
    (FlattenedBatchSecond, "inner"),
    (gpt2, "wpe"),
    (gpt2, "c_attn"),
    (t5, "wo"),
    (llama4, "q_proj"),
]


@pytest.mark.parametrize(
    "build, target, magnitude",
    [(*case, magnitude) for case in CASES for magnitude in (False, True) if not (magnitude and case[1] == "self_attn")],
)
def test_every_sequence_is_under_its_own_adapter_whatever_the_layout(
    build: Callable[[], nn.Module], target: str, magnitude: bool
) -> None:
    model = adapted(build(), target, magnitude=magnitude)
    for sizes in ((2, 7), (4, 4), (2, 8), (4, 8)):  # the same model: what was proven at one size is used at the next
        ids, names = torch.randint(VOCABULARY, sizes), ["a", "b", None, "b"][: sizes[0]]
        expected = one_by_one(model, ids, names)
        with ll.rows(model, names):
            torch.testing.assert_close(output(model, ids), expected, atol=1e-4, rtol=1e-4)


REFUSED: list[tuple[Callable[[], nn.Module], str, str]] = [
    (Experts, r"experts\.0", r"experts\.0"),
    (llama4, r"experts.gate_up_proj", r"model\.layers\.0\.feed_forward\.experts"),
    (t5, "relative_attention_bias", "relative_attention_bias"),
    (Recurrent, "weight_hh_l0", "cells"),
]


@pytest.mark.parametrize("build, target, named", REFUSED)
@pytest.mark.parametrize("sizes", [(2, 8), (4, 4), (2, 7)])
def test_what_cannot_be_told_apart_is_refused_by_name(
    build: Callable[[], nn.Module], target: str, named: str, sizes: tuple[int, int]
) -> None:
    model = adapted(build(), target)
    ids = torch.randint(VOCABULARY, sizes)
    with ll.rows(model, ["a", "b", "a", None][: sizes[0]]), pytest.raises(ll.AdapterStateError, match=named):
        output(model, ids)
    with ll.rows(model, ["a"] * sizes[0]):  # one adapter for all needs no telling apart
        mixed = output(model, ids)
    ll.activate(model, "a")
    torch.testing.assert_close(mixed, output(model, ids))


def test_a_model_that_has_the_batch_second_itself_is_refused() -> None:
    model = adapted(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24), 1, enable_nested_tensor=False), "linear1"
    )
    with ll.rows(model, ["a", "b", "a"]), pytest.raises(ll.AdapterStateError, match=r"layers\.0\.linear1"):
        quiet(model, torch.randn(3, 3, 16))


def test_images_of_unequal_size_are_refused_and_equal_ones_are_right() -> None:
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1, "patch_size": 4}
    text = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    special = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
    config = Qwen2VLConfig(text_config={**text, **heads, "rope_scaling": rope}, vision_config=vision, **special)
    model = adapted(Qwen2VLForConditionalGeneration(config), r".*visual.*qkv")
    sizes = torch.tensor([[1, 2, 4], [1, 2, 4]])
    inputs = _with_images(config, sizes)
    one = [_share(inputs, sequence) for sequence in range(2)]
    expected = []
    for name, share in zip(("a", "b"), one, strict=True):
        ll.activate(model, name)
        expected.append(quiet_call(model, **share).logits)
    with ll.rows(model, ["a", "b"]):
        torch.testing.assert_close(quiet_call(model, **inputs).logits, torch.cat(expected), atol=1e-4, rtol=1e-4)
    unequal = _with_images(config, torch.tensor([[1, 2, 2], [1, 2, 6]]))
    with ll.rows(model, ["a", "b"]), pytest.raises(ll.LoralabError, match=r"rows\(\)"):
        quiet_call(model, **unequal)


def _with_images(config: Any, sizes: Tensor) -> dict[str, Tensor]:
    """A batch of two sequences of 8 tokens, each with one image whose tokens stand at its beginning."""
    counts = (sizes.prod(1) // 4).tolist()
    ids = torch.full((2, 8), 9)
    for row, count in zip(ids, counts, strict=True):
        row[0], row[1 : 1 + count] = config.vision_start_token_id, config.image_token_id
    vision = config.vision_config
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(int(sizes.prod(1).sum()), width)
    types = (ids == config.image_token_id).long()
    return {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": sizes, "mm_token_type_ids": types}


def _share(inputs: dict[str, Tensor], sequence: int) -> dict[str, Tensor]:
    return {name: tensor.chunk(2)[sequence] for name, tensor in inputs.items()}


def test_generation_with_a_cache_is_proven_too() -> None:
    model = adapted(gpt2(), "c_attn")
    ids = torch.randint(VOCABULARY, (2, 4))
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = []
    for name, sequence in zip(("a", "b"), ids, strict=True):
        ll.activate(model, name)
        expected.append(model.generate(sequence[None], attention_mask=torch.ones(1, 4, dtype=torch.long), **settings))
    with ll.rows(model, ["a", "b"]):
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    assert torch.equal(found, torch.cat(expected))


def test_what_keeps_a_cache_is_not_run_once_for_each_adapter() -> None:
    """The second adapter's sequences would read what the first's had left there."""
    model = adapted(gpt2(), "mlp.c_fc", modules_to_save=["h.0.attn"])
    ids, names = torch.randint(VOCABULARY, (2, 4)), ["a", "b"]
    expected = one_by_one(model, ids, names)
    with ll.rows(model, names):
        with pytest.raises(ll.AdapterStateError, match=r"DynamicCache.*use_cache=False"):
            output(model, ids)
        without = quiet_call(model, input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(without, expected, atol=1e-4, rtol=1e-4)


def test_a_module_called_by_itself_is_refused_where_its_shape_leaves_a_doubt() -> None:
    model = adapted(BatchSecondInside(), "linear1")
    with ll.rows(model, ["a", "b"]):
        quiet(model.encoder, torch.randn(2, 5, 16))  # the caller's first dimension, as in every other place
        with pytest.raises(ll.AdapterStateError, match=r"call the whole model within rows\(\)"):
            quiet(model.encoder, torch.randn(4, 5, 16))
