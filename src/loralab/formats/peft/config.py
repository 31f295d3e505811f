"""PEFT's adapter_config.json for LoRA: read strictly, and written.

Reading refuses every setting that would make PEFT compute something that we do not, and ignores the rest.
Knows nothing of tensors.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loralab.core.updates.factors import Recipe
from loralab.errors import AdapterFileError
from loralab.files.values import is_count, is_finite
from loralab.formats.peft.expressions import match_start
from loralab.formats.peft.tokens import mistyped_tokens, parse_tokens
from loralab.methods.trainable_tokens import Tokens

INVOCATION_TOKENS = "alora_invocation_tokens"
LORA_BIAS = "lora_bias"
TYING = "ensure_weight_tying"
LAST_WITH_OUTPUT_TWICE = (0, 21, 2)
"""The last PEFT that is known to add the update of an attention's output twice; later ones are taken to add it once."""

_HONOURED = frozenset(["alpha_pattern", "layers_pattern", "rank_pattern", "use_dora", "use_rslora"])
"""Keys that sound as if they changed the function, and do: we act on them."""

_ONLY_AT_START = frozenset(["corda_config", "eva_config", "loftq_config", "lora_ga_config", "runtime_config"])
"""Keys that sound so and matter to initialisation, or only together with another key that we refuse."""

_HARMLESS_INIT = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Initialisers that leave the base weights as they are; the others (PiSSA, OLoRA, …) change the base itself."""

Targets = str | tuple[str, ...]


@dataclass(frozen=True)
class PeftConfig:
    """The settings of a PEFT LoRA adapter that decide what it computes."""

    rank: int
    alpha: float
    dropout: float = 0.0
    rank_stabilized: bool = False
    bias: str = "none"
    targets: Targets | None = None
    exclude: Targets = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    target_parameters: tuple[str, ...] = ()
    base_model: str | None = None
    task_type: str | None = None
    peft_version: tuple[int, ...] | None = None
    """The PEFT that wrote the file: (0, 21, 2); None where it is not recorded (before 0.18)."""
    fan_in_fan_out: bool = False
    """Whether weights are stored [I, O]; PEFT corrects it per module, with a warning."""
    magnitude: bool = False
    """Whether every output's weights have a trained length (DoRA)."""
    tokens: Tokens | None = None
    """Which rows of embeddings are trained."""
    invocation: tuple[int, ...] = ()
    """The tokens from which on it acts (aLoRA); empty where it acts at every position."""
    bias_of_B: bool = False
    """Whether B has a bias, b, and the update adds s·b as well."""
    ties_weights: bool = False
    """Whether modules that share their weight are to have one adapter."""

    @property
    def trained_bias(self) -> str:
        """Which biases of the model train, b taken for a part of its layer's own."""
        return "lora_only" if self.bias_of_B and self.bias == "none" else self.bias

    @property
    def adds_output_twice(self) -> bool:
        """Whether the PEFT that wrote it adds the update of an nn.MultiheadAttention's output twice."""
        return self.peft_version is None or self.peft_version <= LAST_WITH_OUTPUT_TWICE

    def recipe(self, path: str) -> Recipe:
        """Rank, alpha and the rest for one module or raw parameter: the first pattern that matches its path counts.

        A dense layer may be targeted by its parameter, and its patterns are then matched against that.
        """
        weight = f".{path}.weight"
        path = weight[1:] if any(weight.endswith(f".{name}") for name in self.target_parameters) else path
        rank = next((rank for key, rank in self.rank_pattern.items() if pattern_matches(key, path)), self.rank)
        alpha = next((alpha for key, alpha in self.alpha_pattern.items() if pattern_matches(key, path)), self.alpha)
        return Recipe(rank, alpha, self.dropout, self.rank_stabilized)

    def to_json(self) -> dict[str, Any]:
        """The content of adapter_config.json: all fields that PEFT and vLLM have long known."""
        content = {
            "alpha_pattern": {key: _plain(alpha) for key, alpha in self.alpha_pattern.items()},
            "auto_mapping": None,
            "base_model_name_or_path": self.base_model,
            "bias": self.bias,
            "exclude_modules": None,
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": True,
            "init_lora_weights": True,
            "layer_replication": None,
            "layers_pattern": None,
            "layers_to_transform": None,
            "loftq_config": {},
            "lora_alpha": _plain(self.alpha),
            "lora_bias": False,
            "lora_dropout": self.dropout,
            "megatron_config": None,
            "megatron_core": "megatron.core",
            "modules_to_save": list(self.modules_to_save) or None,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": dict(self.rank_pattern),
            "revision": None,
            "target_modules": self.targets if isinstance(self.targets, str) else list(self.targets or ()),
            "task_type": self.task_type,
            "trainable_token_indices": _listed(self.tokens),
            "use_dora": self.magnitude,
            "use_rslora": self.rank_stabilized,
        }
        more = {"target_parameters": list(self.target_parameters), INVOCATION_TOKENS: list(self.invocation)}
        return content | {key: given for key, given in more.items() if given}


@dataclass(frozen=True)
class PeftVeraConfig:
    """The settings of a PEFT VeRA adapter that decide what it computes, and how it started."""

    common: PeftConfig
    """What it has in common with LoRA: rank, dropout, targets, biases (`lora_only` for VeRA's `vera_only`), …"""
    projection_seed: int
    save_projection: bool
    d_initial: float

    @property
    def recipe(self) -> Recipe:
        """Of every layer: VeRA has no alpha, so the scale is 1."""
        return Recipe(self.common.rank, float(self.common.rank), self.common.dropout)


def pattern_matches(key: str, path: str) -> bool:
    """PEFT's rule for rank_pattern and alpha_pattern: the key, as a regular expression, matches the path's end."""
    return match_start(rf"(.*\.)?({key})$", path) is not None


def parse_config(content: Mapping[str, Any], source: str) -> PeftConfig:
    """The settings; AdapterFileError naming every key whose value we cannot honour."""
    problems = [*_unsupported(content), *mistyped(content)]
    if problems:
        raise AdapterFileError(f"{source} cannot be loaded as it is meant: " + "; ".join(sorted(problems)))
    layers = content.get("layers_to_transform")
    return PeftConfig(
        rank=content.get("r", 8),
        alpha=content.get("lora_alpha", 8),
        dropout=content.get("lora_dropout") or 0.0,
        rank_stabilized=bool(content.get("use_rslora")),
        bias=content.get("bias") or "none",
        targets=_targets(content.get("target_modules")),
        exclude=_targets(content.get("exclude_modules")) or (),
        layers=(layers,) if isinstance(layers, int) else tuple(layers) if layers else None,
        layers_pattern=_names(content.get("layers_pattern")),
        rank_pattern=content.get("rank_pattern") or {},
        alpha_pattern=content.get("alpha_pattern") or {},
        modules_to_save=_names(content.get("modules_to_save")),
        target_parameters=_names(content.get("target_parameters")),
        base_model=content.get("base_model_name_or_path"),
        task_type=content.get("task_type"),
        peft_version=_version(content.get("peft_version")),
        magnitude=bool(content.get("use_dora")),
        tokens=parse_tokens(content),
        invocation=tuple(content.get(INVOCATION_TOKENS) or ()),
        bias_of_B=bool(content.get(LORA_BIAS)),
        ties_weights=bool(content.get(TYING)),
    )


def _unsupported(content: Mapping[str, Any]) -> list[str]:
    problems = []
    if content.get("peft_type") != "LORA":
        kind = content.get("peft_type")
        problems.append(f"peft_type is {kind!r}, and only 'LORA' is known: {_instead_of_type(kind)}")
    if content.get("init_lora_weights", True) not in _HARMLESS_INIT:
        init = content["init_lora_weights"]
        problems.append(f"init_lora_weights is {init!r}, which changes the base weights: {_instead_of_start(init)}")
    if content.get(LORA_BIAS):
        beside = [key for key in ("use_dora", INVOCATION_TOKENS) if content.get(key)]
        problems += [f"{LORA_BIAS} is true beside {key}, which PEFT does not know together" for key in beside]
    for key, value in content.items():
        if value and key not in _HONOURED | _ONLY_AT_START and _may_change_function(key):
            said = f"{key} is {reprlib.repr(value)}, which changes what the adapter computes and is not supported"
            problems.append(f"{said}: {_SETTINGS.get(key, MERGE)}")
    return problems


def _may_change_function(key: str) -> bool:
    return key == "layer_replication" or key.startswith("use_") or key.endswith(("_pattern", "_config"))


def mistyped(content: Mapping[str, Any]) -> list[str]:
    ranks = {"r": content.get("r", 8)} | _entries(content, "rank_pattern")
    problems = [f"{key} is {rank!r}, not a whole number from 1" for key, rank in ranks.items() if not is_count(rank)]
    numbers = {"lora_alpha": content.get("lora_alpha", 8)} | _entries(content, "alpha_pattern")
    problems += [f"{key} is {value!r}, not a finite number" for key, value in numbers.items() if not is_finite(value)]
    if content.get("bias") not in (None, "none", "all", "lora_only"):
        problems.append(f"bias is {content['bias']!r}, not 'none', 'all' or 'lora_only'")
    dropout = content.get("lora_dropout") or 0.0
    if not is_finite(dropout) or not 0 <= dropout < 1:
        problems.append(f"lora_dropout is {dropout!r}, but must be in [0, 1)")
    for key in ("target_modules", "exclude_modules", "modules_to_save", "target_parameters", "layers_pattern"):
        if not _are_names(content.get(key)):
            problems.append(f"{key} is {content[key]!r}, not a name or a list of names")
    if not content.get("target_modules") and not content.get("target_parameters"):
        problems.append("it names neither target_modules nor target_parameters")
    if not isinstance(content.get("task_type"), str | None):
        problems.append(f"task_type is {content['task_type']!r}, not a name")
    problems += mistyped_tokens(content)
    problems += [f"{name} is not a valid regular expression ({why})" for name, why in _bad_expressions(content)]
    tokens = content.get(INVOCATION_TOKENS)
    if tokens is not None and not (isinstance(tokens, list) and tokens and all(_is_token(each) for each in tokens)):
        problems.append(f"{INVOCATION_TOKENS} is {tokens!r}, not a list of tokens' numbers")
    layers = content.get("layers_to_transform") or []
    if not isinstance(layers, int) and not (isinstance(layers, list) and all(isinstance(i, int) for i in layers)):
        problems.append(f"layers_to_transform is {layers!r}, not a list of numbers")
    return problems


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _bad_expressions(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    patterns = [(name, content.get(name)) for name in ("target_modules", "exclude_modules")]
    layers = content.get("layers_pattern")
    patterns += [("layers_pattern", each) for each in (layers if isinstance(layers, list) else [layers])]
    for name in ("rank_pattern", "alpha_pattern"):
        by_pattern = content.get(name)
        patterns += [(name, key) for key in by_pattern] if isinstance(by_pattern, Mapping) else []
    for name, pattern in patterns:
        try:
            re.compile(pattern if isinstance(pattern, str) else "")
        except re.error as problem:
            yield f"{name} {pattern!r}", str(problem)


def _entries(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    pattern = content.get(name) or {}
    if not isinstance(pattern, Mapping):
        return {name: repr(pattern)}  # neither a count nor a number, whatever it is
    return {f"{name}[{key!r}]": value for key, value in pattern.items()}


def _are_names(value: object) -> bool:
    return (
        value is None
        or isinstance(value, str)
        or (isinstance(value, list) and all(isinstance(name, str) for name in value))
    )


def _targets(value: str | Sequence[str] | None) -> Targets | None:
    return value if value is None or isinstance(value, str) else tuple(value)


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) and value else tuple(value or ())


def _version(value: object) -> tuple[int, ...] | None:
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", value) if isinstance(value, str) else None
    return tuple(int(number or 0) for number in numbers.groups()) if numbers else None


def _listed(tokens: Tokens | None) -> list[int] | dict[str, list[int]] | None:
    if isinstance(tokens, Mapping):
        return {name: list(indices) for name, indices in tokens.items()}
    return None if tokens is None else list(tokens)


def _plain(number: float) -> float:
    """Whole numbers without a decimal point, as PEFT's and vLLM's integer fields expect them."""
    return int(number) if float(number).is_integer() else float(number)


# -- what to do with an adapter that cannot be read here ------------------------------------------------------------
#
# For each setting that is refused, the way that works, tried against PEFT 0.21.2 where that could be done. Two would be
# wrong as the usual advice: merging a model whose layers are repeated adds every layer's update to one shared weight,
# and PiSSA's fast SVD is drawn anew when its folder is loaded.

MERGE = "load it in the PEFT that wrote it, onto the same base, merge_and_unload, and save the model"
CONVERT = (
    "in the session that trained it, save_pretrained with path_initial_model_for_weight_conversion (the folder of the "
    "adapter as it started, saved with init_lora_weights True), which writes it as plain LoRA"
)
IN_SESSION = "or merge_and_unload there and save the model"
PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT")
"""Kinds of PEFT's that change no weight, so that nothing can be merged."""

_SETTINGS = {
    "arrow_config": (
        "it routes every token among several adapters, and cannot be merged: load those adapters one by one, each from "
        "its own folder, or run it in PEFT"
    ),
    "layer_replication": (
        "make the larger base first: copy its layers in that order, save that model, load the adapter onto it with "
        "layer_replication null in adapter_config.json, since the file counts the repeated layers (do not merge it in "
        "PEFT, where the copies share their weights)"
    ),
    "megatron_config": (
        "it was trained on Megatron's parallel layers: merge it there and save the model; or, where it was not split "
        "over several devices, set megatron_config to null in adapter_config.json"
    ),
    "use_qalora": (
        "its A reads means of groups of inputs beside a GPTQ base, and PEFT cannot merge it: run it in PEFT, or train "
        "again without"
    ),
}


def _instead_of_type(kind: object) -> str:
    """For an adapter of another kind than LoRA."""
    if kind in PROMPTS:
        return "it changes no weights, so that nothing can be merged: run it in PEFT"
    return MERGE


def _instead_of_start(init: object) -> str:
    """For a LoRA that started by changing the base's weights."""
    name = str(init).lower()
    if name in ("pissa", "olora"):
        return f"{CONVERT}; or {MERGE}"
    if name.startswith("pissa"):
        return f"{CONVERT}, {IN_SESSION} (a later load finds another principal part: its fast SVD is random)"
    if name in ("corda", "lora_ga"):
        return f"{CONVERT}, {IN_SESSION} (a later load would need the data that it started from)"
    if name == "loftq":
        return (
            "it is right only on the base that LoftQ quantised: merge_and_unload in the session that trained it, or in "
            "PEFT on that base, and save the model"
        )
    return MERGE
