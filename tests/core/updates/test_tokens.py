"""Single rows of an embedding: live = merged = one row of a mixed batch = saved and loaded; all else stays."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

import loralab as ll
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import Update
from small_models import SIZES, gpt2, llama
from toys import give_effect

IDS = torch.arange(3, 13).repeat(2, 1)
TOKENS = (4, 6, 7)


class Scaled(nn.Embedding):
    """An embedding with a forward of its own, that no attribute tells."""

    def forward(self, ids: Tensor) -> Tensor:
        return 3 * super().forward(ids)


class Toy(nn.Module):
    """Embedding, layer, head; the head is the embedding's weight again, or has one of its own with a bias."""

    def __init__(
        self, tied: bool = False, embedding: Callable[..., nn.Embedding] = nn.Embedding, **fields: Any
    ) -> None:
        super().__init__()
        self.tok = embedding(64, 16, **fields)
        self.mid = nn.Linear(16, 16)
        self.out = nn.Linear(16, 64, bias=not tied)
        if tied:
            self.out.weight = self.tok.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mid(self.tok(input_ids))))


def gemma() -> nn.Module:
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, num_key_value_heads=2, pad_token_id=0))


BOTH = {"tok": TOKENS, "out": (1, 7)}
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "untied": (llama, {"trainable_token_indices": TOKENS}),
    "untied, both": (llama, {"trainable_token_indices": {"embed_tokens": TOKENS, "lm_head": (1, 7)}}),
    "tied": (lambda: llama(tie_word_embeddings=True), {"trainable_token_indices": TOKENS}),
    "the head alone": (llama, {"trainable_token_indices": {"lm_head": TOKENS}}),
    "a padding token": (llama, {"trainable_token_indices": (0, 4)}),
    "a scaled embedding": (gemma, {"trainable_token_indices": TOKENS}),
    "DoRA": (gpt2, {"trainable_token_indices": TOKENS, "magnitude": True}),
    "biases too": (lambda: Toy(), {"targets": "mid", "trainable_token_indices": BOTH, "bias": "all"}),
    "a toy, tied": (lambda: Toy(tied=True), {"targets": "mid", "trainable_token_indices": {"tok": TOKENS}}),
    "another forward": (lambda: Toy(embedding=Scaled), {"targets": "mid", "trainable_token_indices": {"tok": TOKENS}}),
    "by frequency": (
        lambda: Toy(scale_grad_by_freq=True), {"targets": "mid", "trainable_token_indices": {"tok": TOKENS}}
    ),
}  # fmt: skip
cases = pytest.mark.parametrize("build, fields", CASES.values(), ids=CASES.keys())


def output(model: nn.Module) -> Tensor:
    found = model(input_ids=IDS)
    return found if isinstance(found, Tensor) else found.logits


def made(build: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return build().eval().to(dtype)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_live_is_merged_is_a_row_and_starts_and_ends_as_the_base(
    build: Callable[[], nn.Module], fields: Mapping[str, Any], dtype: torch.dtype
) -> None:
    model = made(build, dtype)
    base = output(model)
    adapter = ll.attach(model, ll.LoRA(rank=2, **fields), "one")
    assert torch.equal(output(model), base)
    give_effect(adapter)
    live, near = output(model), {"atol": 0.1 if dtype is torch.bfloat16 else 2e-6, "rtol": 0}
    assert (live - base).abs().max() > 1e-2
    give_effect(ll.attach(model, ll.LoRA(rank=3, **fields), "two"))
    with ll.rows(model, ["one", None]):
        mixed = output(model)
    torch.testing.assert_close(mixed[0], live[0], **near)
    torch.testing.assert_close(mixed[1], base[1], **near)
    ll.merge(model, "one")
    torch.testing.assert_close(output(model), live, **near)
    ll.unmerge(model)
    with ll.disabled(model):
        assert torch.equal(output(model), base)
    ll.detach(model)
    assert torch.equal(output(model), base)


@cases
@torch.no_grad()
def test_saved_and_loaded_it_computes_the_same(
    build: Callable[[], nn.Module], fields: Mapping[str, Any], tmp_path: Path
) -> None:
    model = made(build)
    adapter = ll.attach(model, ll.LoRA(rank=2, **fields))
    give_effect(adapter)
    live, count = output(model), sum(each.numel() for each in adapter.parameters())
    ll.save(adapter, tmp_path, model=model)
    ll.detach(model)
    again = ll.load(model, tmp_path)
    assert torch.equal(output(model), live)
    assert sum(each.numel() for each in again.parameters()) == count


@cases
def test_gradients_are_those_of_the_whole_weight(build: Callable[[], nn.Module], fields: Mapping[str, Any]) -> None:
    model = made(build, torch.float64)
    adapter = ll.attach(model, ll.LoRA(rank=2, **fields))
    give_effect(adapter)
    rows = {path: each for path, each in adapter.updates.items() if isinstance(each, TokenUpdate) and not each.follows}
    weights = torch.linspace(-1, 1, output(model).numel(), dtype=torch.float64).view(output(model).shape)
    (output(model) * weights).sum().backward()
    fast = {path: update.rows_TH.grad.clone() for path, update in rows.items()}
    model.zero_grad()
    for update in adapter.updates.values():
        if isinstance(update, TokenUpdate):
            update.forward = Update.forward.__get__(update)  # by substitution
    (output(model) * weights).sum().backward()
    for path, update in rows.items():
        torch.testing.assert_close(fast[path], update.rows_TH.grad)
        assert fast[path].any()


def test_only_the_chosen_rows_are_stored_and_train() -> None:
    model = made(lambda: llama(tie_word_embeddings=True))
    adapter = ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=TOKENS))
    trained = {name: tuple(each.shape) for name, each in adapter.named_parameters() if "token_rows" in name}
    assert trained == {"model.embed_tokens.token_rows": (3, 32)}
    assert adapter.updates["lm_head"].rows_TH is adapter.updates["model.embed_tokens"].rows_TH
    assert not any("embed" in path for path in adapter.matched)


def test_a_parent_that_reads_the_weight_finds_the_trained_rows() -> None:
    model = made(Toy)
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="mid", trainable_token_indices={"tok": TOKENS}))
    give_effect(adapter)
    with torch.no_grad():
        assert torch.equal(F.embedding(IDS, model.tok.weight), model.tok(IDS))
    ll.activate(model, None)
    assert model.tok.weight is model.tok.base.weight


def test_a_model_in_half_precision_trains_its_rows_in_float32() -> None:
    model = made(llama, torch.bfloat16)
    adapter = ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=TOKENS))
    model.to(torch.float16)
    assert adapter.updates["model.embed_tokens"].rows_TH.dtype == torch.float32


def test_rows_have_no_sum() -> None:
    model = made(llama)
    for name in ("a", "b"):
        ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=TOKENS), name)
    with pytest.raises(ll.SpecError, match=r"trainable_token_indices.*no sum"):
        ll.combine(model, {"a": 0.5, "b": 0.5}, "c")


def test_rows_of_two_adapters_are_not_active_at_once() -> None:
    model = made(llama)
    for name in ("a", "b"):
        ll.attach(model, ll.LoRA(rank=2, trainable_token_indices=TOKENS), name)
    with pytest.raises(ll.LoralabError, match=r"trainable_token_indices"):
        ll.activate(model, ["a", "b"])
