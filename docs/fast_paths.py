"""The table of families and the fast paths that apply to each, found by trial on small random models.

`generate.py` writes it into the documentation; `tests/models/fast/test_families.py` takes the models from here.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from loralab.models.fast.attention import short_sequence_attention
from loralab.models.fast.head import loss_route
from loralab.models.fast.lean import Leaves, lean_leaves
from loralab.models.load import config_of_type, model_from_config
from loralab.models.quiet import quiet_transformers

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 64,
    "decoder_start_token_id": 0,
}
KEPT = {"attention_probs_dropout_prob": 0.0}
PATCHES = {"image_size": 16, "patch_size": 8}

FAMILIES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "Llama": ("llama", "causal-lm", GROUPED),
    "Mistral": ("mistral", "causal-lm", GROUPED | {"sliding_window": 8}),
    "Qwen 2": ("qwen2", "causal-lm", GROUPED),
    "Qwen 3": ("qwen3", "causal-lm", GROUPED),
    "Gemma": ("gemma", "causal-lm", GROUPED),
    "Gemma 2": ("gemma2", "causal-lm", GROUPED | {"sliding_window": 8}),
    "Gemma 3": ("gemma3_text", "causal-lm", GROUPED | {"sliding_window": 8}),
    "Granite": ("granite", "causal-lm", GROUPED | {"logits_scaling": 3.0}),
    "Cohere": ("cohere", "causal-lm", GROUPED | {"logit_scale": 0.25}),
    "Phi": ("phi", "causal-lm", SIZES),
    "Phi 3": ("phi3", "causal-lm", GROUPED),
    "GPT-2": ("gpt2", "causal-lm", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "attn_pdrop": 0.0}),
    "GPT-NeoX": ("gpt_neox", "causal-lm", SIZES),
    "OPT": ("opt", "causal-lm", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "T5": ("t5", "seq2seq-lm", T5),
    "T5 v1.1": ("t5", "seq2seq-lm", T5 | {"feed_forward_proj": "gated-gelu"}),
    "BERT": ("bert", "sequence-classification", SIZES | KEPT),
    "RoBERTa": ("roberta", "sequence-classification", SIZES | KEPT),
    "DeBERTa-v3": (
        "deberta-v2",
        "sequence-classification",
        SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    ),
    "ViT": ("vit", "image-classification", SIZES | PATCHES),
}
"""Family -> model type, kind, and what its configuration says."""

HEAD = ("family", "norms", "feed-forward", "attention", "output head", "right padding")


def build(family: str) -> Any:
    """The frozen model, in evaluation mode; its norms' weights are random, so that they count."""
    model_type, kind, values = FAMILIES[family]
    known = config_of_type(model_type, {})
    ends = {} if kind.endswith("classification") else ENDS
    config = config_of_type(model_type, {**values, **{key: ends[key] for key in ends if hasattr(known, key)}})
    torch.manual_seed(0)
    model = model_from_config(family, config, kind).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.normal_(1.0, 0.2)
    return model


def inputs_of(model: Any) -> dict[str, torch.Tensor]:
    """A batch, the same each time."""
    torch.manual_seed(1)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(3, 3, 16, 16, dtype=model.dtype)}
    ids = {"input_ids": torch.randint(3, 60, (3, 12))}
    return ids | ({"labels": ids["input_ids"].flip(1)} if model.config.is_encoder_decoder else {})


def rows() -> list[list[str]]:
    """The table, its head first."""
    with quiet_transformers():
        return [list(HEAD), *([family, *_found(build(family))] for family in FAMILIES)]


def _found(model: Any) -> list[str]:
    with lean_leaves(model) as leaves:
        pass
    return [_norms(model, leaves), _feed_forward(leaves), _attention(model), *_head(model)]


def _norms(model: nn.Module, leaves: Leaves) -> str:
    plain = sum(isinstance(module, nn.LayerNorm) for module in model.modules())
    unknown = sum(type(module).__name__.endswith("Norm") for module in model.modules()) - leaves.norms - plain
    parts = {"keep x and ρ": leaves.norms, "torch's LayerNorm": plain, "the model's own": unknown}
    return ", ".join(name for name, count in parts.items() if count > 0)


def _feed_forward(leaves: Leaves) -> str:
    if leaves.gates:
        return "gate keeps g and u"
    return "activation keeps x" if leaves.activations else "torch's activation"


def _attention(model: Any) -> str:
    """Which function autograd finds in the graph of a batch in bfloat16."""
    model = deepcopy(model).to(torch.bfloat16).requires_grad_()
    with short_sequence_attention(model):
        output = model(**inputs_of(model)).logits
    graph, left = set[Any](), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in graph:
            graph.add(node)
            left.extend(each for each, _ in node.next_functions)
    names = {node.name() for node in graph}
    if any("ShortAttention" in name for name in names):
        return "short kernel"
    return "torch's kernel" if any("ScaledDotProduct" in name for name in names) else "the model's own"


def _head(model: Any) -> list[str]:
    """Where the head runs, and whether padding on the right needs a mask."""
    if model.get_output_embeddings() is None:
        return ["classifier", "masked"]
    ids = torch.arange(3, 15).view(2, 6)
    route = loss_route(model, ids, ids if model.config.is_encoder_decoder else None)
    logits = route.reason.partition(", its logits ")[2].split(" ")[0]
    where = f"at targets{f', {logits}' if logits else ''}" if route.split else "whole logits"
    return [where, "no mask" if route.causal else "masked"]
