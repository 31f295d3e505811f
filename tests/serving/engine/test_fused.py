"""The fused step: it is run where it computes what the model does, and only there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

import loralab as ll
from loralab.serving.engine.decoder import Chunk, PlainDecoder
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.fused.decoder import FusedDecoder
from loralab.serving.engine.fused.trial import decoder_for
from loralab.serving.engine.request import Request
from serving.causal import ENDS, GROUPED, LAYERS, LENGTH, adapt, answers, causal, plainly, prompts
from toys import give_effect

WIDE = {**GROUPED, **ENDS, "head_dim": 16}
LONG = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}

FUSED: dict[str, Callable[[], PreTrainedModel]] = {
    "biases": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, **ENDS, attention_bias=True, mlp_bias=True)),
    "tied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, **ENDS, tie_word_embeddings=True)),
    "scaled rotation": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, **ENDS, rope_parameters=LONG)),
    "windows in late layers": lambda: hf.Qwen2ForCausalLM(
        hf.Qwen2Config(**GROUPED, **ENDS, use_sliding_window=True, sliding_window=7, max_window_layers=1)
    ),
    "normed heads": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**WIDE)),
    "scaled embeddings": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**WIDE)),
    "caps": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**WIDE, sliding_window=6)),
    "two rotations": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**{**WIDE, "num_hidden_layers": 3}, sliding_window=6, layer_types=LAYERS)
    ),
    "one projection, turned in part": lambda: hf.Phi3ForCausalLM(
        hf.Phi3Config(**GROUPED, **ENDS, partial_rotary_factor=0.5)
    ),
    "norms behind": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**GROUPED, **ENDS)),
    "other norms": lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**GROUPED, **ENDS)),
}
PLAIN: dict[str, Callable[[], PreTrainedModel]] = {
    "scaled residuals": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**GROUPED, **ENDS, residual_multiplier=0.5)),
    "layers without rotation": lambda: hf.SmolLM3ForCausalLM(
        hf.SmolLM3Config(**GROUPED, **ENDS, no_rope_layers=[1, 0])
    ),
    "experts": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, **ENDS, num_local_experts=2)),
    "blocks in parallel": lambda: hf.CohereForCausalLM(hf.CohereConfig(**GROUPED, **ENDS)),
}


def built(table: dict[str, Callable[[], PreTrainedModel]], kind: str) -> PreTrainedModel:
    """With weights that are large enough to matter."""
    torch.manual_seed(0)
    model = table[kind]().eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    return model


def decoder_of(model: PreTrainedModel) -> Any:
    return decoder_for(model, rows=3, length=LENGTH)


@pytest.mark.parametrize("kind", FUSED)
def test_mixed_answers_are_the_models_own(kind: str) -> None:
    model = built(FUSED, kind)
    pairs = adapt(model, a=2, b=5)
    asked = list(zip(prompts(1, 30, 9), ("a", None, "b"), strict=True))
    expected = [plainly(model, prompt, who, 10) for prompt, who in asked]
    ll.detach(model)
    engine = Engine(model, EngineConfig(rows=3, chunk=8, length=LENGTH))
    assert engine.how.startswith("decoding: fused blocks")
    for name, each in pairs.items():
        engine.hold(name, each)
    assert answers(engine, [Request(prompt=tuple(p), max_new_tokens=10, adapter=who) for p, who in asked]) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", PLAIN)
def test_what_is_not_the_same_is_left_to_the_model(kind: str, dtype: torch.dtype) -> None:
    decoder = decoder_of(built(PLAIN, kind).to(dtype))
    assert isinstance(decoder, PlainDecoder)
    assert "the model's own modules" in decoder.how


@pytest.mark.parametrize("change", ["hook", "forward", "subclass"])
def test_a_module_that_was_changed_is_left_to_the_model(change: str) -> None:
    model = causal("llama")
    mlp = model.model.layers[1].mlp
    if change == "hook":
        mlp.register_forward_hook(lambda module, args, output: output * 0.5)
    elif change == "forward":
        own = mlp.down_proj.forward
        mlp.down_proj.forward = lambda x: own(x) * 0.5
    else:
        mlp.down_proj = Halved(mlp.down_proj)
    assert isinstance(decoder_of(model), PlainDecoder)


class Halved(nn.Linear):
    """Not the product that it looks like."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = linear.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 0.5


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "as they are"])
def test_roundings_that_grow_over_the_blocks_are_no_fault(pack: bool) -> None:
    torch.manual_seed(0)
    deep = hf.LlamaForCausalLM(hf.LlamaConfig(**{**GROUPED, "num_hidden_layers": 40}, **ENDS)).eval().bfloat16()
    for parameter in deep.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.3)
    assert isinstance(decoder_for(deep, rows=3, length=LENGTH, pack=pack), FusedDecoder)


@pytest.mark.parametrize("place", ["model.layers.1", "model.norm", "model.embed_tokens", "model.layers.0.mlp.act_fn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_that_computes_something_else_is_seen(place: str, dtype: torch.dtype) -> None:
    model = causal("llama").to(dtype)
    part = model.get_submodule(place)
    own = part.forward
    part.forward = lambda *args, **kwargs: own(*args, **kwargs) * 1.25
    decoder = decoder_of(model)
    ids, cache = [5, 9], DynamicCache()
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(decoder.read([Chunk(ids, None, cache)])[0], expected, atol=0.05, rtol=0.05)


def test_a_block_that_was_changed_is_seen_by_the_trial() -> None:
    model = causal("llama")
    own = model.model.layers[0].forward
    model.model.layers[0].forward = lambda *args, **kwargs: own(*args, **kwargs) * 1.5
    assert "a trial" in decoder_of(model).how


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_copied_only_where_it_is_allowed(dtype: torch.dtype) -> None:
    model = causal("llama").to(dtype)
    decoder = decoder_for(model, rows=3, length=LENGTH, pack=False)
    assert isinstance(decoder, FusedDecoder)
    assert decoder.memory_bytes == 0
    assert "weights as they are" in decoder.how


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "as they are"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["tied", "caps", "windows in late layers", "normed heads"])
def test_texts_that_are_read_together_have_the_bits_of_each_alone(kind: str, dtype: torch.dtype, pack: bool) -> None:
    model = built(FUSED, kind)
    pairs = adapt(model, a=2, b=5)
    ll.detach(model)
    decoder = decoder_for(model.to(dtype), rows=3, length=LENGTH, pack=pack)
    assert isinstance(decoder, FusedDecoder)
    for name, each in pairs.items():
        decoder.bank.put(name, each)
    texts, readers = prompts(1, 30, 9, 2, 17), ("a", None, "b", "b", None)

    def read(together: bool) -> tuple[list[Tensor], list[Tensor]]:
        caches = [DynamicCache() for _ in texts]
        logits: list[Tensor] = []
        for part in (slice(0, 9), slice(9, None)):
            chunks = [
                Chunk(text[part], *each) for text, *each in zip(texts, readers, caches, strict=True) if text[part]
            ]
            calls = [chunks] if together else [[chunk] for chunk in chunks]
            logits.extend(torch.cat([decoder.read(call) for call in calls]))
        return logits, [layer.keys for cache in caches for layer in cache.layers]

    with torch.inference_mode():
        alone, together = read(together=False), read(together=True)
    assert all(
        torch.equal(one, other) for pair in zip(alone, together, strict=True) for one, other in zip(*pair, strict=True)
    )


def test_texts_are_read_one_by_one_where_bits_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(built(FUSED, "tied"))
    monkeypatch.setattr(decoder, "_texts_are_apart", False)
    calls: list[int] = []
    own = decoder._read
    monkeypatch.setattr(decoder, "_read", lambda chunks: (calls.append(len(chunks)), own(chunks))[1])
    with torch.inference_mode():
        logits_KV = decoder.read([Chunk(text, None, DynamicCache()) for text in prompts(4, 9)])
    assert (calls, len(logits_KV)) == ([1, 1], 2)


def test_short_prompts_are_read_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(built(FUSED, "tied"), EngineConfig(rows=4, chunk=16, length=LENGTH))
    calls: list[list[int]] = []
    own = engine._decoder.read
    monkeypatch.setattr(
        engine._decoder, "read", lambda chunks: (calls.append([len(each.ids) for each in chunks]), own(chunks))[1]
    )
    answers(engine, [Request(prompt=tuple(prompt), max_new_tokens=2) for prompt in prompts(5, 6, 7, 30)])
    assert calls == [[5, 6], [7], [16], [14]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_tokens_alone_and_among_others(dtype: torch.dtype) -> None:
    """Ranks 1 to 64, on other modules, prompts of all lengths."""
    model = built(FUSED, "tied")
    pairs = adapt(model, **{f"r{rank}": rank for rank in (1, 3, 8, 16, 64)})
    ll.detach(model)
    model.to(dtype)
    pairs["r3"] = {path: pair for path, pair in pairs["r3"].items() if path.endswith(("q_proj", "v_proj"))}
    pairs["r8"] = {path: pair for path, pair in pairs["r8"].items() if path.endswith(("down_proj", "k_proj"))}
    engine = Engine(model, EngineConfig(rows=6, chunk=8, length=LENGTH))
    for name, each in pairs.items():
        engine.hold(name, each)
    asked = zip(prompts(1, 12, 30, 4, 7, 2), (*pairs, None), strict=True)
    requests = [Request(prompt=tuple(each), max_new_tokens=20, adapter=who) for each, who in asked]
    assert answers(engine, requests) == [answers(engine, [request])[0] for request in requests]


SPEAKING = (None, "a", ("a", "b"))


@pytest.mark.parametrize("speaking", SPEAKING, ids=["base", "one", "two"])
@pytest.mark.parametrize("kind", FUSED)
def test_an_adapter_that_speaks_on_the_model_is_taken_along(kind: str, speaking: Any) -> None:
    model = built(FUSED, kind)
    adapt(model, a=2, b=5)
    asked = prompts(1, 30, 9)
    expected = [plainly(model, prompt, speaking, 10) for prompt in asked]
    engine = Engine(model, EngineConfig(rows=3, chunk=8, length=LENGTH))
    assert engine.how.startswith("decoding: fused blocks")
    assert answers(engine, [Request(prompt=tuple(prompt), max_new_tokens=10) for prompt in asked]) == expected
    assert not any(module._forward_hooks for module in model.modules())


def test_a_merged_adapter_is_in_the_weights() -> None:
    model = built(FUSED, "tied")
    adapt(model, a=2)
    prompt = prompts(9)[0]
    expected = plainly(model, prompt, "a", 10)
    ll.merge(model)
    engine = Engine(model, EngineConfig(rows=2, chunk=8, length=LENGTH))
    assert engine.how.startswith("decoding: fused blocks")
    assert answers(engine, [Request(prompt=tuple(prompt), max_new_tokens=10)]) == [expected]


@pytest.mark.parametrize(
    "method, why",
    [
        (ll.LoRA(rank=2, targets="all-linear", magnitude=True), "a magnitude (DoRA)"),
        (ll.LoRA(rank=2, targets="embed_tokens,q_proj"), "an update of kind embedding"),
        (ll.BitFit(), "weights trained in full"),
    ],
    ids=["dora", "embedding", "bitfit"],
)
def test_an_adapter_that_is_more_than_pairs_is_left_to_the_model(method: Any, why: str) -> None:
    model = built(FUSED, "biases")
    adapter = ll.attach(model, method)
    give_effect(adapter, std=0.2)
    decoder = decoder_of(model)
    assert isinstance(decoder, PlainDecoder)
    assert why in decoder.how
