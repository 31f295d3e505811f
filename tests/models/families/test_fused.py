"""Fused projections: every single output row is classified by what it does in the model's real forward pass.

With one token the softmax is 1, so only value rows can change the attention's output. With two tokens, a change at the
first one reaches the output at the second through keys and values, but never through queries.
"""

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from loralab.errors import TargetError
from loralab.models.families.aliases import fused_layout

PUSH = 8.0
"""Added to one output row: far above what rounding could do."""

TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
ENCODER = {**TEXT, "intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 0}
DECODER = {**ENCODER, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "bos_token_id": 1}
GPT2 = {**GPT2, "eos_token_id": 2}
FALCON = {**TEXT, "bos_token_id": 1, "eos_token_id": 2}
MPT = {"vocab_size": 64, "d_model": 32, "n_layers": 1, "n_heads": 4}
MODERN = {**DECODER, "cls_token_id": 1, "sep_token_id": 2}

# name -> prefix of the classes, head, settings, the projection, the attention around it
CASES = {
    "gpt2": ("GPT2", "Model", GPT2, "c_attn", "attn"),
    "gpt_bigcode multi-query": ("GPTBigCode", "Model", GPT2, "c_attn", "attn"),
    "gpt_bigcode": ("GPTBigCode", "Model", {**GPT2, "multi_query": False}, "c_attn", "attn"),
    "codegen": ("CodeGen", "Model", {**GPT2, "rotary_dim": 4}, "qkv_proj", "attn"),
    "gpt_neox": ("GPTNeoX", "Model", DECODER, "query_key_value", "attention"),
    "persimmon": ("Persimmon", "Model", {**DECODER, "qk_layernorm": False}, "query_key_value", "self_attn"),
    "bloom": ("Bloom", "Model", TEXT, "query_key_value", "self_attention"),
    "falcon": ("Falcon", "Model", {**FALCON, "multi_query": False}, "query_key_value", "self_attention"),
    "falcon multi-query": ("Falcon", "Model", FALCON, "query_key_value", "self_attention"),
    "falcon new": ("Falcon", "Model", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
                   "query_key_value", "self_attention"),
    "mpt": ("Mpt", "Model", MPT, "Wqkv", "attn"),
    "phi3": ("Phi3", "Model", {**DECODER, "num_key_value_heads": 2}, "qkv_proj", "self_attn"),
    "modernbert": ("ModernBert", "Model", MODERN, "Wqkv", "attn"),
    "deberta": ("Deberta", "Model", {**ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
                "self.in_proj", "attention.self"),
}  # fmt: skip


def build(prefix: str, head: str, settings: dict[str, object]) -> PreTrainedModel:
    config = getattr(transformers, f"{prefix}Config")(**settings)
    config._attn_implementation = "eager"
    model: PreTrainedModel = getattr(transformers, prefix + head)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model.eval()


def find(model: nn.Module, end: str) -> tuple[str, nn.Module]:
    return next((path, module) for path, module in model.named_modules() if path.endswith(f".{end}"))


def attention_output(model: nn.Module, around: str, tokens_BT: torch.Tensor) -> torch.Tensor:
    """[B, T, features]: what the attention module returns."""
    kept: list[torch.Tensor] = []
    hook = find(model, around)[1].register_forward_hook(
        lambda module, inputs, outputs: kept.append(outputs[0] if isinstance(outputs, tuple) else outputs)
    )
    with torch.no_grad(), hook:
        model(input_ids=tokens_BT)
    return kept[0]


def changed_rows(model: nn.Module, projection: str, around: str, length: int, pushed: int, seen: int) -> set[int]:
    """Rows of the projection that, pushed at position `pushed`, change the attention's output at `seen`.

    Row i is pushed in example i of one batch of equal texts.
    """
    fused = find(model, projection)[1]
    rows = fused.weight.shape[1] if type(fused).__name__ == "Conv1D" else fused.weight.shape[0]
    tokens = torch.tensor([[5, 9]])[:, :length].expand(rows, length)

    def push(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        moved = output.clone()
        moved[range(rows), pushed, range(rows)] += PUSH
        return moved

    before = attention_output(model, around, tokens)
    with fused.register_forward_hook(push):
        after = attention_output(model, around, tokens)
    difference = (after - before)[:, seen].abs().amax(dim=-1)
    return set(torch.nonzero(difference > 1e-4).flatten().tolist())


@pytest.mark.parametrize("name", CASES)
def test_rows_do_what_the_layout_says(name: str) -> None:
    prefix, head, settings, projection, around = CASES[name]
    model = build(prefix, head, settings)
    path, module = find(model, projection)
    size = module.weight.shape[1] if type(module).__name__ == "Conv1D" else module.weight.shape[0]
    layout = fused_layout(model, path, size)
    assert layout is not None
    query, key, value = (set(layout[part].tolist()) for part in "qkv")
    assert changed_rows(model, projection, around, length=1, pushed=0, seen=0) == value
    assert changed_rows(model, projection, around, length=2, pushed=0, seen=1) == key | value
    assert changed_rows(model, projection, around, length=2, pushed=1, seen=1) == query | key | value
    assert len(query) + len(key) + len(value) == size
    assert all(rows.dtype == torch.int64 and rows.equal(rows.sort().values) for rows in layout.values())


def test_cross_attention_of_gpt2_fuses_keys_and_values_only() -> None:
    model = build("GPT2", "Model", {**GPT2, "add_cross_attention": True})
    layout = fused_layout(model, "h.0.crossattention.c_attn", 64)
    assert layout is not None
    assert set(layout) == {"k", "v"}
    states = torch.randn(1, 1, 32)
    module = model.h[0].crossattention
    with torch.no_grad():
        expected = module.c_proj(module.c_attn(states)[..., layout["v"]])
        found = module(torch.randn(1, 1, 32), encoder_hidden_states=states)[0]
    torch.testing.assert_close(found, expected)


def test_a_projection_that_is_not_fused_has_no_layout() -> None:
    model = build("GPT2", "Model", GPT2)
    assert fused_layout(model, "h.0.attn.c_proj", 32) is None
    assert fused_layout(nn.Linear(4, 12), "qkv", 12) is None


def test_rows_that_do_not_fit_the_config() -> None:
    model = build("Phi3", "Model", {**DECODER, "num_key_value_heads": 2})
    with pytest.raises(TargetError, match=r"qkv_proj of Phi3Model .* cannot be split .* the projection has 66"):
        fused_layout(model, "layers.0.self_attn.qkv_proj", 66)
