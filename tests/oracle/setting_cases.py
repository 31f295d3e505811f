"""Cases of what a specification can say beside its targets."""

from typing import Any

from oracle.case import Case
from oracle.model_cases import llama, roberta, tokens
from oracle.module_cases import MLP, Everything, indices, rows

BOTH_DENSE = ["lin0", "lin1"]


def _mlp(ours: dict[str, Any], theirs: dict[str, Any], **common: Any) -> Case:
    targets: dict[str, Any] = {"targets": BOTH_DENSE}, {"target_modules": BOTH_DENSE}
    return Case(MLP, rows, targets[0] | ours, targets[1] | theirs, common)


SETTINGS: dict[str, Case] = {
    "rank-stabilised": _mlp({"rank_stabilized": True}, {"use_rslora": True}),
    "another rank and alpha": _mlp({"rank": 5, "alpha": 0.5}, {"r": 5, "lora_alpha": 0.5}),
    "alpha of half a number": _mlp({"rank": 3, "alpha": 1.25}, {"r": 3, "lora_alpha": 1.25}),
    "rank pattern": _mlp({}, {}, rank_pattern={"lin1": 4}),
    "alpha pattern": _mlp({}, {}, alpha_pattern={"lin0": 9}),
    "both patterns, rank-stabilised": _mlp(
        {"rank_stabilized": True}, {"use_rslora": True}, rank_pattern={"lin0": 5}, alpha_pattern={"lin1": 3}
    ),
    "pattern by expression": Case(
        llama,
        tokens,
        {"targets": ["q_proj", "k_proj"]},
        {"target_modules": ["q_proj", "k_proj"]},
        {"rank_pattern": {r"layers\.1\.self_attn\.q_proj": 3}, "alpha_pattern": {r"layers\.\d\.self_attn\.k_proj": 7}},
    ),
    "all biases": _mlp({}, {}, bias="all"),
    "biases of adapted layers": _mlp({"targets": ["lin1"]}, {"target_modules": ["lin1"]}, bias="lora_only"),
    "all biases of every kind": Case(
        Everything,
        indices,
        {"targets": ["emb", "conv", "fused", "lin"]},
        {"target_modules": ["emb", "conv", "fused", "lin"]},
        {"bias": "all"},
    ),
    "all biases, of an attention too": Case(
        Everything,
        indices,
        {"targets": ["attend"]},
        {"target_modules": ["attend"]},
        {"bias": "all"},
    ),
    "biases of an attention": Case(
        Everything,
        indices,
        {"targets": ["attend"]},
        {"target_modules": ["attend"]},
        {"bias": "lora_only"},
    ),
    "a layer in full": _mlp({}, {}, modules_to_save=["head"]),
    "a normalisation in full": Case(
        Everything, indices, {"targets": ["lin"]}, {"target_modules": ["lin"]}, {"modules_to_save": ["norm"]}
    ),
    "a head of two layers and all biases": Case(
        roberta,
        tokens,
        {"targets": ["query"]},
        {"target_modules": ["query"], "task_type": "SEQ_CLS"},
        {"bias": "all", "modules_to_save": ["classifier"]},
    ),
    "one block": Case(
        llama,
        tokens,
        {"targets": ["down_proj"], "layers": [1]},
        {"target_modules": ["down_proj"], "layers_to_transform": [1]},
    ),
    "expression": Case(
        llama, tokens, {"targets": r".*\.0\.mlp\.(up|down)_proj"}, {"target_modules": r".*\.0\.mlp\.(up|down)_proj"}
    ),
    "all-linear but some": Case(
        llama,
        tokens,
        {"targets": "all-linear", "exclude": ["o_proj"]},
        {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    ),
    "dropout is silent in evaluation": _mlp({"dropout": 0.5}, {"lora_dropout": 0.5}),
}
