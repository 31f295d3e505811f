"""Tiny random transformers, one per architecture, with the adapters that users put on them."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DetrConfig,
    DetrForObjectDetection,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ResNetConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from oracle.case import Case

WIDTHS: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
ENCODER: dict[str, Any] = WIDTHS | {"num_hidden_layers": 2, "vocab_size": 32, "max_position_embeddings": 32}


def tokens() -> dict[str, Tensor]:
    """Two sequences of seven tokens."""
    return {"input_ids": torch.randint(2, 32, (2, 7))}


def both_sides() -> dict[str, Tensor]:
    """For an encoder and a decoder."""
    return tokens() | {"decoder_input_ids": torch.randint(2, 32, (2, 5))}


def pixels() -> dict[str, Tensor]:
    """Two images of 16×16."""
    return {"pixel_values": torch.randn(2, 3, 16, 16)}


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=32, **ENDS))


def bloom() -> nn.Module:
    return BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=32, **ENDS))


def bert() -> nn.Module:
    return BertForSequenceClassification(BertConfig(**ENCODER, num_labels=3))


def roberta() -> nn.Module:
    return RobertaForSequenceClassification(RobertaConfig(**ENCODER, num_labels=3))


def deberta() -> nn.Module:
    attention = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    return DebertaV2ForSequenceClassification(DebertaV2Config(**ENCODER, **attention, pooler_hidden_size=16))


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**ENCODER, num_key_value_heads=1))


def mixtral() -> nn.Module:
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "experts_implementation": "eager"}
    return MixtralForCausalLM(MixtralConfig(**ENCODER, **experts, num_key_value_heads=1))


def t5() -> nn.Module:
    config = T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=32, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(**WIDTHS, num_hidden_layers=2, image_size=16, patch_size=8))


def detr() -> nn.Module:
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in DETR_SIDE.items()}
    return DetrForObjectDetection(DetrConfig(backbone_config=backbone, d_model=16, num_queries=4, **sides))


DETR_SIDE = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
HEAD = {"task_type": "SEQ_CLS"}


def _same(targets: list[str], **theirs: Any) -> dict[str, Any]:
    """The same target names on both sides."""
    return {"ours": {"targets": targets}, "theirs": {"target_modules": targets} | theirs}


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]

MODELS: dict[str, Case] = {
    "gpt2, c_attn": Case(gpt2, tokens, **_same(["c_attn"], fan_in_fan_out=True)),
    "gpt2, q and v of c_attn": Case(gpt2, tokens, {"targets": ["c_attn[q,v]"]}, None),
    "gpt2, q and v by default": Case(gpt2, tokens, {}, None),
    "gpt2, feed-forward": Case(gpt2, tokens, **_same(["c_fc", "mlp.c_proj"], fan_in_fan_out=True)),
    "gpt2, all-linear": Case(gpt2, tokens, {"targets": "all-linear"},
                             {"target_modules": "all-linear", "fan_in_fan_out": True}),
    "bloom, whole": Case(bloom, tokens, **_same(["query_key_value", "dense_h_to_4h"])),
    "bloom, q and v": Case(bloom, tokens, {"targets": ["query_key_value[q,v]"]}, None),
    "bert, with its head": Case(bert, tokens, **_same(["query", "value"], **HEAD)),
    "roberta, with its head": Case(roberta, tokens, **_same(["query", "value"], **HEAD)),
    "roberta, dense layers and biases": Case(
        roberta, tokens, **_same(["attention.output.dense", "query"], **HEAD), common={"bias": "all"}
    ),
    "deberta, with its head": Case(deberta, tokens, **_same(["query_proj", "value_proj"], **HEAD)),
    "llama": Case(llama, tokens, **_same(["q_proj", "v_proj", "down_proj"])),
    "llama, embeddings and head": Case(llama, tokens, **_same(["embed_tokens", "lm_head", "q_proj"])),
    "mixtral, attention": Case(mixtral, tokens, **_same(["q_proj", "v_proj"])),
    "mixtral, one expert parameter": Case(
        mixtral, tokens, {"targets": ["experts.down_proj"]}, {"target_parameters": ["experts.down_proj"]}
    ),
    "mixtral, experts and attention": Case(
        mixtral,
        tokens,
        {"targets": [*EXPERTS, "o_proj"]},
        {"target_parameters": EXPERTS, "target_modules": ["o_proj"]},
    ),
    "mixtral, router": Case(mixtral, tokens, {"targets": ["mlp.gate.weight"]}, {"target_parameters": ["gate.weight"]}),
    "mixtral, what PEFT takes for all-linear": Case(
        mixtral,
        tokens,
        {"targets": [*ATTENTION, *EXPERTS, "gate.weight"], "rank_pattern": {r".*\.gate_up_proj": 4},
         "alpha_pattern": {r".*\.gate_up_proj": 10}},
        {"target_modules": "all-linear"},
    ),
    "t5": Case(t5, both_sides, **_same(["q", "v", "wo"])),
    "t5, tied embedding": Case(t5, both_sides, **_same(["encoder.embed_tokens", "q"]), peft_merges=False),
    "gpt2, tied embedding": Case(gpt2, tokens, **_same(["wte", "wpe"]), peft_merges=False),
    "vit, with its head": Case(
        vit, pixels, **_same(["q_proj", "v_proj", "projection"]), common={"modules_to_save": ["classifier"]}
    ),
    "detr": Case(detr, pixels, **_same(["q_proj", "v_proj", "fc1"]),
                 common={"modules_to_save": ["class_labels_classifier"]}),
    "detr, its convolutions": Case(detr, pixels, **_same(["convolution", "input_projection"])),
}  # fmt: skip
