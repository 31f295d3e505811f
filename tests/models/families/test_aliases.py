"""Every row of the family table against a tiny model of transformers' own, built from its config."""

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from loralab.errors import TargetError
from loralab.models.families.aliases import (
    block_paths,
    default_targets,
    embedding_paths,
    expand_alias,
    family_of,
    final_norm_paths,
    output_head_names,
)
from loralab.models.families.table import FAMILIES, FAMILY_BY_TYPE

LAYERS = 2
WIDTH = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
TEXT = {**WIDTH, "intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 0}
DECODER = {**TEXT, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
MIXTURE = {**DECODER, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 32, "bos_token_id": 1}
GPT2 = {**GPT2, "eos_token_id": 2}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4}
SIDES = {
    f"{side}_{key}": value
    for side in ("encoder", "decoder")
    for key, value in {"layers": LAYERS, "attention_heads": 4, "ffn_dim": 48}.items()
}
BART = {
    **SIDES,
    "vocab_size": 64,
    "d_model": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
}
SPEECH = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
SWIN = {
    "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4,
}  # fmt: skip
TOWER_TEXT = {key: value for key, value in TEXT.items() if key != "pad_token_id"} | {
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# model type -> class prefix, head, settings
CAUSAL = {
    "llama": "Llama",
    "mistral": "Mistral",
    "ministral": "Ministral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "smollm3": "SmolLM3",
    "olmo": "Olmo",
    "olmo2": "Olmo2",
    "olmo3": "Olmo3",
    "cohere": "Cohere",
    "cohere2": "Cohere2",
    "granite": "Granite",
    "stablelm": "StableLm",
    "helium": "Helium",
    "seed_oss": "SeedOss",
    "ernie4_5": "Ernie4_5",
    "nemotron": "Nemotron",
    "glm": "Glm",
    "glm4": "Glm4",
    "starcoder2": "Starcoder2",
    "phi": "Phi",
    "phi3": "Phi3",
}
ENCODERS = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "xlm-roberta-xl": "XLMRobertaXL",
    "camembert": "Camembert",
    "ernie": "Ernie",
    "esm": "Esm",
    "roformer": "RoFormer",
    "rembert": "RemBert",
    "megatron-bert": "MegatronBert",
    "data2vec-text": "Data2VecText",
    "roberta-prelayernorm": "RobertaPreLayerNorm",
    "mpnet": "MPNet",
    "deberta": "Deberta",
    "deberta-v2": "DebertaV2",
}
CASES: dict[str, tuple[str, str, dict[str, object]]] = {
    **{kind: (name, "ForCausalLM", DECODER) for kind, name in CAUSAL.items()},
    "gemma3_text": ("Gemma3Text", "", DECODER),
    **{
        kind: (name, "ForCausalLM", MIXTURE)
        for kind, name in {
            "mixtral": "Mixtral",
            "qwen2_moe": "Qwen2Moe",
            "qwen3_moe": "Qwen3Moe",
            "olmoe": "Olmoe",
            "phimoe": "Phimoe",
            "gpt_oss": "GptOss",
            "granitemoe": "GraniteMoe",
        }.items()
    },
    "gpt2": ("GPT2", "LMHeadModel", {**GPT2, "add_cross_attention": True}),
    "gpt_bigcode": ("GPTBigCode", "ForCausalLM", GPT2),
    "gpt_neo": (
        "GPTNeo",
        "ForCausalLM",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_layers": LAYERS,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gptj": ("GPTJ", "ForCausalLM", {**GPT2, "rotary_dim": 4}),
    "codegen": ("CodeGen", "ForCausalLM", {**GPT2, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", {**TEXT, "bos_token_id": 1, "eos_token_id": 2}),
    "persimmon": ("Persimmon", "ForCausalLM", {**TEXT, "bos_token_id": 1, "eos_token_id": 2}),
    "bloom": ("Bloom", "ForCausalLM", WIDTH),
    "falcon": ("Falcon", "ForCausalLM", WIDTH),
    "mpt": ("Mpt", "ForCausalLM", {"vocab_size": 64, "d_model": 32, "n_layers": LAYERS, "n_heads": 4}),
    "opt": ("OPT", "ForCausalLM", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    **{kind: (name, "ForSequenceClassification", TEXT) for kind, name in ENCODERS.items()},
    "electra": ("Electra", "ForSequenceClassification", {**TEXT, "embedding_size": 16}),
    "albert": ("Albert", "ForSequenceClassification", {**TEXT, "embedding_size": 16}),
    "bert-generation": (
        "BertGeneration",
        "Decoder",
        {**TEXT, "is_decoder": True, "add_cross_attention": True, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "modernbert": (
        "ModernBert",
        "ForSequenceClassification",
        {**TEXT, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "distilbert": (
        "DistilBert",
        "ForSequenceClassification",
        {"vocab_size": 64, "dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48},
    ),
    "t5": ("T5", "ForConditionalGeneration", T5),
    "mt5": ("MT5", "ForConditionalGeneration", T5),
    "umt5": ("UMT5", "ForConditionalGeneration", T5),
    "bart": ("Bart", "ForConditionalGeneration", BART),
    "mbart": ("MBart", "ForConditionalGeneration", BART),
    "pegasus": ("Pegasus", "ForConditionalGeneration", BART),
    "marian": ("Marian", "MTModel", {**BART, "decoder_vocab_size": 64}),
    "m2m_100": ("M2M100", "ForConditionalGeneration", BART),
    "whisper": ("Whisper", "ForConditionalGeneration", {**BART, **SPEECH}),
    "vit": ("ViT", "ForImageClassification", IMAGE),
    "deit": ("DeiT", "ForImageClassification", IMAGE),
    "beit": ("Beit", "ForImageClassification", IMAGE),
    "vit_msn": ("ViTMSN", "ForImageClassification", IMAGE),
    "ijepa": ("IJepa", "ForImageClassification", IMAGE),
    "dinov2": ("Dinov2", "ForImageClassification", IMAGE),
    "dinov2_with_registers": ("Dinov2WithRegisters", "ForImageClassification", {**IMAGE, "use_swiglu_ffn": True}),
    "swin": ("Swin", "ForImageClassification", SWIN),
    "swinv2": ("Swinv2", "ForImageClassification", SWIN),
    "clip": ("CLIP", "Model", {"text_config": TOWER_TEXT, "vision_config": IMAGE, "projection_dim": 16}),
    "siglip": ("Siglip", "Model", {"text_config": TOWER_TEXT, "vision_config": IMAGE}),
    "clip_text_model": ("CLIPText", "Model", TOWER_TEXT),
    "clip_vision_model": ("CLIPVision", "Model", IMAGE),
    "siglip_text_model": ("SiglipText", "Model", TOWER_TEXT),
    "siglip_vision_model": ("SiglipVision", "Model", IMAGE),
    "detr": ("Detr", "ForObjectDetection", {**SIDES, "d_model": 32, "num_queries": 4}),
}
"""Model type -> the prefix of its classes, its head, its settings."""

ATTENTIONS = {"gpt2": 2 * LAYERS, "bert-generation": 2 * LAYERS, "albert": 1, "clip": 2 * LAYERS, "siglip": 2 * LAYERS}
"""How many attentions a model has, where that is not one per layer, or three per pair of encoder and decoder."""


def build(kind: str) -> PreTrainedModel:
    prefix, head, settings = CASES[kind]
    if kind == "detr":
        backbone = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
        )
        settings = {**settings, "backbone_config": backbone, "use_timm_backbone": False, "backbone": None}
    config = getattr(transformers, f"{prefix}Config")(**settings)
    name = "Gemma3ForCausalLM" if kind == "gemma3_text" else prefix + head
    model: PreTrainedModel = getattr(transformers, name)(config)
    return model


def matching(model: nn.Module, patterns: list[str]) -> list[str]:
    """The paths that the patterns fit, by the rule that adapters use."""
    stems = [pattern.split("[")[0] for pattern in patterns]
    paths = [path for path, _ in model.named_modules()] + [path for path, _ in model.named_parameters()]
    return [path for path in paths if any(path == stem or path.endswith(f".{stem}") for stem in stems)]


def attention_count(kind: str) -> int:
    architecture = FAMILY_BY_TYPE[kind].architecture
    pairs = architecture == "encoder-decoder" or kind == "detr"
    return ATTENTIONS.get(kind, 3 * LAYERS if pairs else LAYERS)


def feed_forward_widths(model: nn.Module, paths: list[str]) -> set[int]:
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    weights = [modules[path].weight if path in modules else parameters[path] for path in paths]
    return {size for weight in weights for size in weight.shape[-2:]}


def test_every_family_is_built_here() -> None:
    assert set(CASES) == set(FAMILY_BY_TYPE)
    assert len(FAMILY_BY_TYPE) == sum(len(family.model_types) for family in FAMILIES)


@pytest.mark.parametrize("kind", CASES)
def test_names_of_the_family(kind: str) -> None:
    model = build(kind)
    assert model.config.model_type == kind
    family = family_of(model)
    assert family is FAMILY_BY_TYPE[kind]
    check_attention(model, attention_count(kind))
    check_feed_forward(model)
    check_surroundings(model)


def check_attention(model: nn.Module, count: int) -> None:
    """Each of q, k, v, o is there once per attention; no feed-forward output passes for o."""
    parts = {alias: matching(model, expand_alias(model, alias)) for alias in "qkvo"}
    assert {alias: len(paths) for alias, paths in parts.items()} == dict.fromkeys("qkvo", count)
    modules = dict(model.named_modules())
    assert all(getattr(modules[path], "weight", None) is not None for paths in parts.values() for path in paths)
    feed_forward = set(matching(model, expand_alias(model, "mlp")))
    assert not feed_forward & {path for paths in parts.values() for path in paths}
    assert set(matching(model, expand_alias(model, "attention"))) == {path for each in parts.values() for path in each}


def check_feed_forward(model: nn.Module) -> None:
    """In every layer there is a way in and a way out, and nothing narrow (a router) is among them."""
    paths = matching(model, expand_alias(model, "mlp"))
    layers = sum(len(model.get_submodule(path)) for path in block_paths(model))  # type: ignore[arg-type]
    assert len(paths) >= 2 * layers
    assert len(paths) % layers == 0
    assert min(feed_forward_widths(model, paths)) >= 16


def check_surroundings(model: nn.Module) -> None:
    blocks, norms, embeddings = block_paths(model), final_norm_paths(model), embedding_paths(model)
    assert blocks
    assert embeddings
    assert all("norm" in type(model.get_submodule(path)).__name__.lower() for path in norms)
    adapted = set(matching(model, expand_alias(model, "attention") + expand_alias(model, "mlp")))
    assert all(any(path.startswith(f"{block}.") for block in blocks) for path in adapted)
    assert not adapted & output_head_names(model)


HEADS = {
    "gpt2": {"lm_head"},
    "llama": {"lm_head"},
    "t5": {"lm_head"},
    "whisper": {"proj_out"},
    "bert": {"classifier"},
    "roberta": {"classifier", "classifier.dense", "classifier.dropout", "classifier.out_proj"},
    "distilbert": {"pre_classifier", "classifier"},
    "vit": {"classifier"},
    "clip": set(),
    "deberta": {"pooler", "pooler.dense", "pooler.dropout", "classifier"},
}


@pytest.mark.parametrize("kind", HEADS)
def test_output_heads(kind: str) -> None:
    assert output_head_names(build(kind)) == HEADS[kind]


DEFAULTS = {
    "gpt2": ["attn.c_attn[q,v]", "crossattention.q_attn", "crossattention.c_attn[v]"],
    "llama": ["q_proj", "v_proj"],
    "phi3": ["qkv_proj[q,v]"],
    "bert": ["self.query", "self.value"],
    "bloom": ["query_key_value[q,v]"],
    "deberta-v2": ["self.query_proj", "self.value_proj"],
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_default_targets_are_queries_and_values(kind: str) -> None:
    assert default_targets(build(kind)) == DEFAULTS[kind]


FINAL_NORMS = {
    "llama": ["model.norm"], "gpt2": ["transformer.ln_f"], "bert": [], "vit": ["vit.layernorm"],
    "t5": ["encoder.final_layer_norm", "decoder.final_layer_norm"],
}  # fmt: skip


@pytest.mark.parametrize("kind", FINAL_NORMS)
def test_final_norms(kind: str) -> None:
    assert final_norm_paths(build(kind)) == FINAL_NORMS[kind]


def test_feed_forward_of_bert_leaves_the_attention_output_out() -> None:
    expected = ["intermediate.dense", "layer.0.output.dense", "layer.1.output.dense"]
    assert expand_alias(build("bert"), "mlp") == expected


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_experts_are_named_as_parameters_and_stored_as_the_table_says(kind: str) -> None:
    model = build(kind)
    family = FAMILY_BY_TYPE[kind]
    parameters = dict(model.named_parameters())
    (inward, *_) = [path for path in matching(model, expand_alias(model, "mlp")) if path.endswith("gate_up_proj")]
    hidden_axis = 1 if family.experts_in_out else 2
    assert parameters[inward].shape[hidden_axis] == model.config.hidden_size
    experts = model.get_submodule(inward.rpartition(".")[0])
    assert experts.is_transposed == family.experts_in_out


def test_a_model_inside_another_is_found() -> None:
    class Composite(nn.Module):
        def __init__(self, inner: PreTrainedModel) -> None:
            super().__init__()
            self.inner = inner
            self.config = transformers.PreTrainedConfig()
            self.config.text_config = inner.config

    assert expand_alias(Composite(build("llama")), "o") == ["o_proj"]


@pytest.fixture
def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_plain_model_has_no_family(plain: nn.Module) -> None:
    assert family_of(plain) is None
    assert output_head_names(plain) == set()
    with pytest.raises(TargetError, match=r"'q' is not known for Sequential.*for example: 0, 2"):
        expand_alias(plain, "q")


def test_an_alias_that_is_none() -> None:
    with pytest.raises(TargetError, match=r"no alias is called 'qq'; there are: q, k, v, o, attention, mlp"):
        expand_alias(build("llama"), "qq")


def test_a_part_that_the_model_lacks() -> None:
    model = build("llama")
    for layer in model.model.layers:
        layer.mlp = nn.Identity()
    with pytest.raises(TargetError, match="which it does not have; name the modules by hand"):
        expand_alias(model, "mlp")


def test_an_unknown_model_with_parametrised_weights_is_told_its_layers() -> None:
    model = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 4)))
    with pytest.raises(TargetError, match="0"):
        default_targets(model)
