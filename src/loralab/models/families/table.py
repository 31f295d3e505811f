"""Where things are inside each family of models: a table, one row per group of model types that agree.

Names are those of transformers 5. A pattern is the end of a module path: it matches `path` if `path ==
pattern` or `path` ends in `"." + pattern`. `c_attn[q]` is the query part of a fused projection. Patterns
that a given model lacks (cross-attention, gated feed-forward, experts) are left out when it is asked. `#`
stands for a layer's number, where without it an end would fit too much: BERT's `output.dense` is also the
end of `attention.output.dense`. The table knows no model object.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

from loralab.models.families import fused
from loralab.models.families.fused import Layout

Patterns = tuple[str, ...]

GATED_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Family:
    """The names in one group of model types. q, k, v, o hold for self- and cross-attention alike."""

    model_types: Patterns
    query: Patterns = ("q_proj",)
    key: Patterns = ("k_proj",)
    value: Patterns = ("v_proj",)
    output: Patterns = ("o_proj",)
    mlp: Patterns = GATED_MLP
    """Both sides of the feed-forward; raw 3-D expert parameters are named as parameters. No routers."""
    fused: Mapping[str, Layout] = field(default_factory=dict)
    """Pattern of a fused projection -> which of its rows are q, k and v."""
    blocks: Patterns = ("layers",)
    """The lists of layers."""
    final_norm: Patterns = ("norm",)
    """Outside the layers; empty if the last layer ends in its own."""
    embedding: Patterns = ("embed_tokens",)
    """Tokens, or the patches of an image."""
    architecture: str = "decoder"
    """One of "decoder", "encoder", "encoder-decoder", "vision" or "dual" (a text and an image tower)."""
    experts_in_out: bool = False
    """Expert parameters are stored [expert, in, out]; else [expert, out, in]."""


_EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
_SHARED_EXPERT = tuple(f"mlp.shared_expert.{name}" for name in ("gate_proj", "up_proj", "down_proj"))
_FUSED_MLP = ("mlp.gate_up_proj", "mlp.down_proj")
_TWO_LAYERS = ("mlp.fc1", "mlp.fc2")
_GPT_MLP = ("mlp.c_fc", "mlp.c_proj")
_BLOOM_MLP = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_BERT_MLP = ("intermediate.dense", "layer.#.output.dense")


class _Projections(TypedDict, total=False):
    """Where q, k and v come from."""

    query: Patterns
    key: Patterns
    value: Patterns
    fused: Mapping[str, Layout]


def _slices(of: str, layout: Layout) -> _Projections:
    """q, k and v are rows of one projection."""
    return {"query": (f"{of}[q]",), "key": (f"{of}[k]",), "value": (f"{of}[v]",), "fused": {of: layout}}


def _each(form: str, query: str = "query", key: str = "key", value: str = "value") -> _Projections:
    """q, k and v are three projections, called alike."""
    return {"query": (form.format(query),), "key": (form.format(key),), "value": (form.format(value),)}


_gpt = partial(Family, blocks=("h",), final_norm=("ln_f",), embedding=("wte",))
_bert = partial(
    Family,
    output=("attention.output.dense",),
    mlp=_BERT_MLP,
    blocks=("encoder.layer",),
    final_norm=(),
    embedding=("word_embeddings",),
    architecture="encoder",
)
_vision = partial(
    Family,
    final_norm=("layernorm",),
    embedding=("patch_embeddings.projection",),
    architecture="vision",
)

_DECODERS = (
    Family(
        (
            *("llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3"),
            *("olmo", "olmo2", "olmo3", "cohere", "cohere2", "granite", "stablelm", "helium", "seed_oss"),
            *("ernie4_5", "nemotron"),
        ),
    ),
    Family(
        ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe"),
        mlp=(*GATED_MLP, *_EXPERTS, *_SHARED_EXPERT),
    ),
    Family(("gpt_oss",), mlp=_EXPERTS, experts_in_out=True),
    Family(("granitemoe",), mlp=("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj")),
    Family(("glm", "glm4"), mlp=_FUSED_MLP),
    Family(("starcoder2",), mlp=_GPT_MLP),
    Family(("phi",), output=("self_attn.dense",), mlp=_TWO_LAYERS, final_norm=("final_layernorm",)),
    Family(("phi3",), **_slices("qkv_proj", fused.grouped_query), mlp=_FUSED_MLP),
    _gpt(
        ("gpt2", "gpt_bigcode"),
        query=("attn.c_attn[q]", "crossattention.q_attn"),
        key=("attn.c_attn[k]", "crossattention.c_attn[k]"),
        value=("attn.c_attn[v]", "crossattention.c_attn[v]"),
        output=("attn.c_proj", "crossattention.c_proj"),
        mlp=_GPT_MLP,
        fused={"attn.c_attn": fused.gpt2, "crossattention.c_attn": fused.halves},
    ),
    _gpt(("gpt_neo", "gptj"), output=("out_proj",), mlp=(*_GPT_MLP, "mlp.fc_in", "mlp.fc_out")),
    _gpt(
        ("codegen",),
        **_slices("qkv_proj", fused.codegen),
        output=("attn.out_proj",),
        mlp=("mlp.fc_in", "mlp.fc_out"),
    ),
    Family(
        ("gpt_neox", "persimmon"),
        **_slices("query_key_value", fused.per_head),
        output=("attention.dense", "self_attn.dense"),
        mlp=_BLOOM_MLP,
        final_norm=("final_layer_norm", "final_layernorm"),
        embedding=("embed_in", "embed_tokens"),
    ),
    _gpt(
        ("bloom", "falcon"),
        **_slices("query_key_value", fused.falcon),
        output=("self_attention.dense",),
        mlp=_BLOOM_MLP,
        embedding=("word_embeddings",),
    ),
    _gpt(
        ("mpt",),
        **_slices("Wqkv", fused.thirds),
        output=("attn.out_proj",),
        mlp=("ffn.up_proj", "ffn.down_proj"),
        blocks=("blocks",),
        final_norm=("norm_f",),
    ),
    Family(("opt",), output=("self_attn.out_proj",), mlp=("fc1", "fc2"), final_norm=("final_layer_norm",)),
)

_ENCODERS = (
    _bert(
        (
            *("bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "electra", "ernie", "esm", "roformer"),
            *("rembert", "megatron-bert", "bert-generation", "data2vec-text", "roberta-prelayernorm"),
        ),
        **_each("self.{}"),
        output=("attention.output.dense", "crossattention.output.dense"),
        final_norm=("encoder.emb_layer_norm_after", "encoder.ln", "encoder.LayerNorm"),
    ),
    _bert(("deberta-v2",), **_each("self.{}_proj")),
    _bert(("deberta",), **_slices("self.in_proj", fused.per_head)),
    _bert(
        ("distilbert",),
        **_each("{}_lin", "q", "k", "v"),
        output=("out_lin",),
        mlp=("ffn.lin1", "ffn.lin2"),
        blocks=("transformer.layer",),
    ),
    _bert(
        ("albert",),
        **_each("attention.{}"),
        output=("attention.dense",),
        mlp=("ffn", "ffn_output"),
        blocks=("albert_layers",),
    ),
    _bert(("mpnet",), **_each("attn.{}", "q", "k", "v"), output=("attn.o",)),
    Family(
        ("modernbert",),
        **_slices("Wqkv", fused.thirds),
        output=("attn.Wo",),
        mlp=("mlp.Wi", "mlp.Wo"),
        final_norm=("final_norm",),
        embedding=("tok_embeddings",),
        architecture="encoder",
    ),
)

_ENCODER_DECODERS = (
    Family(
        ("t5", "mt5", "umt5"),
        query=("SelfAttention.q", "EncDecAttention.q"),
        key=("SelfAttention.k", "EncDecAttention.k"),
        value=("SelfAttention.v", "EncDecAttention.v"),
        output=("SelfAttention.o", "EncDecAttention.o"),
        mlp=tuple(f"DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1", "wo")),
        blocks=("block",),
        final_norm=("final_layer_norm",),
        embedding=("shared",),
        architecture="encoder-decoder",
    ),
    Family(
        ("bart", "mbart", "pegasus", "marian", "m2m_100", "whisper"),
        output=("out_proj",),
        mlp=("fc1", "fc2"),
        final_norm=("layer_norm",),
        embedding=("shared", "embed_tokens"),
        architecture="encoder-decoder",
    ),
)

_VISION = (
    _vision(
        ("vit", "deit", "beit", "vit_msn", "ijepa", "dinov2", "dinov2_with_registers"),
        mlp=(*_TWO_LAYERS, *GATED_MLP),
        blocks=("layers", "encoder.layer"),
    ),
    _vision(("swin",), mlp=_TWO_LAYERS, blocks=("blocks",)),
    _vision(
        ("swinv2",),
        **_each("self.{}"),
        output=("attention.output.dense",),
        mlp=("intermediate.dense", "blocks.#.output.dense"),
        blocks=("blocks",),
    ),
    _vision(
        ("detr",),
        mlp=_TWO_LAYERS,
        blocks=("encoder.layers", "decoder.layers"),
        final_norm=("decoder.layernorm",),
        embedding=("input_projection",),
    ),
    Family(
        ("clip", "siglip", *(f"{name}_{side}_model" for name in ("clip", "siglip") for side in ("text", "vision"))),
        output=("self_attn.out_proj",),
        mlp=tuple(f"layers.#.{name}" for name in _TWO_LAYERS),
        blocks=("encoder.layers",),
        final_norm=("final_layer_norm", "post_layernorm"),
        embedding=("token_embedding", "patch_embedding"),
        architecture="dual",
    ),
)

FAMILIES: tuple[Family, ...] = (*_DECODERS, *_ENCODERS, *_ENCODER_DECODERS, *_VISION)

FAMILY_BY_TYPE: dict[str, Family] = {model_type: family for family in FAMILIES for model_type in family.model_types}
