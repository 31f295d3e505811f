"""The short-sequence attention against torch's kernel, alone and inside transformers' models."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from loralab.models.fast import attention
from loralab.models.fast.attention import short_attention, short_sequence_attention

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
WIDE = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2}


def inputs(groups: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [(3, 4, 7, 8), (3, groups, 7, 8), (3, groups, 7, 8)]
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return q, k, v


def masks() -> dict[str, Tensor | None]:
    padding = torch.ones(3, 1, 7, 7, dtype=torch.bool).tril()
    padding[1, :, :, 5:] = False
    return {"none": None, "boolean": padding, "added": torch.randn(3, 1, 7, 7), "per head": torch.randn(1, 4, 7, 7)}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "boolean", "added", "per head"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_equals_torchs_kernel(groups: int, mask: str, causal: bool) -> None:
    q, k, v = inputs(groups)
    chosen = masks()[mask]
    causal = causal and chosen is None
    ours = short_attention(q, k, v, mask=chosen, causal=causal, scale=0.3)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=chosen, is_causal=causal, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(ours)
    for found, expected in zip(
        torch.autograd.grad(ours, (q, k, v), upstream), torch.autograd.grad(theirs, (q, k, v), upstream), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [30, 64])
def test_in_bfloat16_it_is_as_exact_as_torchs_kernel(tokens: int) -> None:
    """Held against float64; 30 tokens are no multiple of what torch's softmax takes at a time."""
    q, k, v = (torch.randn(2, heads, tokens, 16, dtype=torch.float64) for heads in (4, 2, 2))
    upstream = torch.randn(2, 4, tokens, 16)

    def errors(attend: Any) -> list[float]:
        found = []
        for dtype in (torch.float64, torch.bfloat16):
            qkv = [each.to(dtype).requires_grad_() for each in (q, k, v)]
            output = attend(*qkv)
            found.append([output.detach(), *torch.autograd.grad(output, qkv, upstream.to(dtype))])
        return [float((one - other).norm() / one.norm()) for one, other in zip(*found, strict=True)]

    ours = errors(lambda *qkv: short_attention(*qkv, causal=True))
    theirs = errors(lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=True))
    assert all(one < 1.5 * other for one, other in zip(ours, theirs, strict=True))


def test_gradients_by_finite_differences() -> None:
    q, k, v = inputs(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *qkv: short_attention(*qkv, causal=True), (q, k, v))


def test_dropout_is_the_same_in_both_directions() -> None:
    """With dropout the output is linear in V, so its gradient times V must give the output back."""
    q, k, v = inputs(dtype=torch.float64)
    output = short_attention(q, k, v, dropout=0.5)
    (gradient,) = torch.autograd.grad(output.sum(), v)
    torch.testing.assert_close((gradient * v).sum(), output.sum())
    assert not torch.allclose(output, short_attention(q, k, v))


def test_dropout_keeps_the_expectation() -> None:
    q, k, v = (torch.zeros(1, 1, 64, 8), torch.zeros(1, 1, 64, 8), torch.ones(1, 1, 64, 8))
    mean = torch.stack([short_attention(q, k, v, dropout=0.3).mean() for _ in range(50)]).mean()
    assert mean.item() == pytest.approx(1.0, abs=0.02)


def keeps_probabilities(q: Tensor, k: Tensor, v: Tensor) -> bool:
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        short_attention(q, k, v, causal=True)
    return any(shape[-1] == 7 and len(shape) > 2 for shape in kept)


def test_probabilities_are_not_kept() -> None:
    assert not keeps_probabilities(*inputs())


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60)),
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**WIDE, sliding_window=4)),
    "bert": lambda: BertForSequenceClassification(BertConfig(**SMALL, intermediate_size=48)),
}


def output_and_gradient(model: PreTrainedModel, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    logits = model(input_ids=ids, attention_mask=mask).logits
    if mask is not None and logits.dim() == 3:
        logits = logits * mask[..., None]
    model.zero_grad()
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), model.get_input_embeddings().weight.grad.clone()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_models_compute_the_same(name: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]().eval()
    ids, mask = torch.randint(1, 60, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 6:] = 0
    before = output_and_gradient(model, ids, mask if padded else None)
    calls: list[int] = []
    own = attention.short_attention
    monkeypatch.setattr(attention, "LONGEST", {torch.float32: 64})
    monkeypatch.setattr(attention, "short_attention", lambda *a, **k: calls.append(1) or own(*a, **k))
    with short_sequence_attention(model):
        inside = output_and_gradient(model, ids, mask if padded else None)
    assert len(calls) == 2, "a call for each of two layers"
    for found, expected in zip(inside, before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_few_sequences_at_a_time_are_all_at_once(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(5, heads, 6, 8, requires_grad=True) for heads in (4, 2, 2))
    mask, found = torch.rand(5, 1, 6, 6) > 0.2, []
    for at_once in (2**23, 2 * 4 * 6 * 6, 1):
        monkeypatch.setattr(attention, "WEIGHTS_AT_ONCE", at_once)
        torch.manual_seed(0)
        output = short_attention(q, k, v, mask=mask, dropout=dropout)
        found.append([output, *torch.autograd.grad(output.square().sum(), (q, k, v))])
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_what_dropout_drew_is_drawn_again_and_leaves_the_generator_alone() -> None:
    q, k, v = inputs()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = short_attention(q, k, v, dropout=0.5)
    assert not any(t.dtype == torch.bool for t in kept)
    torch.rand(3)
    state = torch.get_rng_state()
    output.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_where_weights_are_dropped_products_are_used_at_any_length_and_precision() -> None:
    model, ids = (
        BertForSequenceClassification(BertConfig(**SMALL, intermediate_size=48)),
        torch.randint(1, 60, (2, 200)),
    )
    with short_sequence_attention(model):
        trained, evaluated = model.train()(input_ids=ids).logits, model.eval()(input_ids=ids).logits
    assert "ShortAttention" in nodes_of(trained)
    assert "ShortAttention" not in nodes_of(evaluated)


def nodes_of(output: Tensor) -> str:
    """The names of all that autograd would go back through."""
    found, left = set[object](), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left.extend(each for each, _ in node.next_functions)
    return " ".join(node.name() for node in found)


def test_long_sequences_go_to_torchs_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LONGEST", {torch.float32: 8})
    monkeypatch.setattr(attention, "short_attention", lambda *a, **k: pytest.fail("used for a long sequence"))
    model = MODELS["llama"]()
    with short_sequence_attention(model):
        model(input_ids=torch.randint(1, 60, (1, 9)))


def test_a_model_with_attention_of_its_own_keeps_it() -> None:
    model = MODELS["llama"]()
    model.set_attn_implementation("eager")
    with short_sequence_attention(model) as sentence:
        assert model.config._attn_implementation == "eager"
    assert "own" in sentence
