"""Where things are inside each family of models: a table, one row per group of model types that agree.

Names are those of transformers 5. A pattern is the end of a module path: it matches `path` if `path ==
pattern` or `path` ends in `"." + pattern`. `c_attn[q]` is the query part of a fused projection. Patterns
that a given model lacks (cross-attention, gated feed-forward, experts) are left out when it is asked. `#`
stands for a layer's number, where without it an end would fit too much: BERT's `output.dense` is also the
end of `attention.output.dense`. The table knows no model object.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
_TWO_LAYERS = ("mlp.fc1", "mlp.fc2")
_T5 = ("SelfAttention", "EncDecAttention")

_DECODERS = (
    Family(
        model_types=(
            *("llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3"),
            *("olmo", "olmo2", "olmo3", "cohere", "cohere2", "granite", "stablelm", "helium", "seed_oss"),
            *("ernie4_5", "nemotron"),
        ),
    ),
    Family(
        model_types=("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe"),
        mlp=(*GATED_MLP, *_EXPERTS, *_SHARED_EXPERT),
    ),
    Family(model_types=("gpt_oss",), mlp=_EXPERTS, experts_in_out=True),
    Family(
        model_types=("granitemoe",),
        mlp=("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"),
    ),
    Family(model_types=("glm", "glm4"), mlp=("mlp.gate_up_proj", "mlp.down_proj")),
    Family(model_types=("starcoder2",), mlp=("mlp.c_fc", "mlp.c_proj")),
    Family(model_types=("phi",), output=("self_attn.dense",), mlp=_TWO_LAYERS, final_norm=("final_layernorm",)),
    Family(
        model_types=("phi3",),
        query=("qkv_proj[q]",),
        key=("qkv_proj[k]",),
        value=("qkv_proj[v]",),
        mlp=("mlp.gate_up_proj", "mlp.down_proj"),
        fused={"qkv_proj": fused.grouped_query},
    ),
    Family(
        model_types=("gpt2", "gpt_bigcode"),
        query=("attn.c_attn[q]", "crossattention.q_attn"),
        key=("attn.c_attn[k]", "crossattention.c_attn[k]"),
        value=("attn.c_attn[v]", "crossattention.c_attn[v]"),
        output=("attn.c_proj", "crossattention.c_proj"),
        mlp=("mlp.c_fc", "mlp.c_proj"),
        fused={"attn.c_attn": fused.gpt2, "crossattention.c_attn": fused.halves},
        blocks=("h",),
        final_norm=("ln_f",),
        embedding=("wte",),
    ),
    Family(
        model_types=("gpt_neo", "gptj"),
        output=("out_proj",),
        mlp=("mlp.c_fc", "mlp.c_proj", "mlp.fc_in", "mlp.fc_out"),
        blocks=("h",),
        final_norm=("ln_f",),
        embedding=("wte",),
    ),
    Family(
        model_types=("codegen",),
        query=("qkv_proj[q]",),
        key=("qkv_proj[k]",),
        value=("qkv_proj[v]",),
        output=("attn.out_proj",),
        mlp=("mlp.fc_in", "mlp.fc_out"),
        fused={"qkv_proj": fused.codegen},
        blocks=("h",),
        final_norm=("ln_f",),
        embedding=("wte",),
    ),
    Family(
        model_types=("gpt_neox", "persimmon"),
        query=("query_key_value[q]",),
        key=("query_key_value[k]",),
        value=("query_key_value[v]",),
        output=("attention.dense", "self_attn.dense"),
        mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        fused={"query_key_value": fused.per_head},
        final_norm=("final_layer_norm", "final_layernorm"),
        embedding=("embed_in", "embed_tokens"),
    ),
    Family(
        model_types=("bloom", "falcon"),
        query=("query_key_value[q]",),
        key=("query_key_value[k]",),
        value=("query_key_value[v]",),
        output=("self_attention.dense",),
        mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        fused={"query_key_value": fused.falcon},
        blocks=("h",),
        final_norm=("ln_f",),
        embedding=("word_embeddings",),
    ),
    Family(
        model_types=("mpt",),
        query=("Wqkv[q]",),
        key=("Wqkv[k]",),
        value=("Wqkv[v]",),
        output=("attn.out_proj",),
        mlp=("ffn.up_proj", "ffn.down_proj"),
        fused={"Wqkv": fused.thirds},
        blocks=("blocks",),
        final_norm=("norm_f",),
        embedding=("wte",),
    ),
    Family(
        model_types=("opt",),
        output=("self_attn.out_proj",),
        mlp=("fc1", "fc2"),
        final_norm=("final_layer_norm",),
    ),
)

_ENCODERS = (
    Family(
        model_types=(
            *("bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "electra", "ernie", "esm"),
            *(
                "roformer",
                "rembert",
                "megatron-bert",
                "bert-generation",
                "data2vec-text",
                "roberta-prelayernorm",
            ),
        ),
        query=("self.query",),
        key=("self.key",),
        value=("self.value",),
        output=("attention.output.dense", "crossattention.output.dense"),
        mlp=("intermediate.dense", "layer.#.output.dense"),
        blocks=("encoder.layer",),
        final_norm=("encoder.emb_layer_norm_after", "encoder.ln", "encoder.LayerNorm"),
        embedding=("word_embeddings",),
        architecture="encoder",
    ),
    Family(
        model_types=("deberta-v2",),
        query=("self.query_proj",),
        key=("self.key_proj",),
        value=("self.value_proj",),
        output=("attention.output.dense",),
        mlp=("intermediate.dense", "layer.#.output.dense"),
        blocks=("encoder.layer",),
        final_norm=(),
        embedding=("word_embeddings",),
        architecture="encoder",
    ),
    Family(
        model_types=("deberta",),
        query=("self.in_proj[q]",),
        key=("self.in_proj[k]",),
        value=("self.in_proj[v]",),
        output=("attention.output.dense",),
        mlp=("intermediate.dense", "layer.#.output.dense"),
        fused={"self.in_proj": fused.per_head},
        blocks=("encoder.layer",),
        final_norm=(),
        embedding=("word_embeddings",),
        architecture="encoder",
    ),
    Family(
        model_types=("distilbert",),
        query=("q_lin",),
        key=("k_lin",),
        value=("v_lin",),
        output=("out_lin",),
        mlp=("ffn.lin1", "ffn.lin2"),
        blocks=("transformer.layer",),
        final_norm=(),
        embedding=("word_embeddings",),
        architecture="encoder",
    ),
    Family(
        model_types=("albert",),
        query=("attention.query",),
        key=("attention.key",),
        value=("attention.value",),
        output=("attention.dense",),
        mlp=("ffn", "ffn_output"),
        blocks=("albert_layers",),
        final_norm=(),
        embedding=("word_embeddings",),
        architecture="encoder",
    ),
    Family(
        model_types=("mpnet",),
        query=("attn.q",),
        key=("attn.k",),
        value=("attn.v",),
        output=("attn.o",),
        mlp=("intermediate.dense", "layer.#.output.dense"),
        blocks=("encoder.layer",),
        final_norm=(),
        embedding=("word_embeddings",),
        architecture="encoder",
    ),
    Family(
        model_types=("modernbert",),
        query=("Wqkv[q]",),
        key=("Wqkv[k]",),
        value=("Wqkv[v]",),
        output=("attn.Wo",),
        mlp=("mlp.Wi", "mlp.Wo"),
        fused={"Wqkv": fused.thirds},
        final_norm=("final_norm",),
        embedding=("tok_embeddings",),
        architecture="encoder",
    ),
)

_ENCODER_DECODERS = (
    Family(
        model_types=("t5", "mt5", "umt5"),
        query=tuple(f"{attention}.q" for attention in _T5),
        key=tuple(f"{attention}.k" for attention in _T5),
        value=tuple(f"{attention}.v" for attention in _T5),
        output=tuple(f"{attention}.o" for attention in _T5),
        mlp=tuple(f"DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1", "wo")),
        blocks=("block",),
        final_norm=("final_layer_norm",),
        embedding=("shared",),
        architecture="encoder-decoder",
    ),
    Family(
        model_types=("bart", "mbart", "pegasus", "marian", "m2m_100", "whisper"),
        output=("out_proj",),
        mlp=("fc1", "fc2"),
        final_norm=("layer_norm",),
        embedding=("shared", "embed_tokens"),
        architecture="encoder-decoder",
    ),
)

_VISION = (
    Family(
        model_types=("vit", "deit", "beit", "vit_msn", "ijepa", "dinov2", "dinov2_with_registers"),
        mlp=(*_TWO_LAYERS, *GATED_MLP),
        blocks=("layers", "encoder.layer"),
        final_norm=("layernorm",),
        embedding=("patch_embeddings.projection",),
        architecture="vision",
    ),
    Family(
        model_types=("swin",),
        mlp=_TWO_LAYERS,
        blocks=("blocks",),
        final_norm=("layernorm",),
        embedding=("patch_embeddings.projection",),
        architecture="vision",
    ),
    Family(
        model_types=("swinv2",),
        query=("self.query",),
        key=("self.key",),
        value=("self.value",),
        output=("attention.output.dense",),
        mlp=("intermediate.dense", "blocks.#.output.dense"),
        blocks=("blocks",),
        final_norm=("layernorm",),
        embedding=("patch_embeddings.projection",),
        architecture="vision",
    ),
    Family(
        model_types=("detr",),
        mlp=_TWO_LAYERS,
        blocks=("encoder.layers", "decoder.layers"),
        final_norm=("decoder.layernorm",),
        embedding=("input_projection",),
        architecture="vision",
    ),
    Family(
        model_types=(
            "clip",
            "siglip",
            *(f"{name}_{side}_model" for name in ("clip", "siglip") for side in ("text", "vision")),
        ),
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
