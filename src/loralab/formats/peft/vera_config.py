"""PEFT's adapter_config.json for VeRA: read strictly, as `peft_config` reads LoRA's. Knows nothing of tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from loralab.core.updates.factors import Recipe
from loralab.errors import AdapterFileError, SpecError
from loralab.files.names import CONFIG_NAME
from loralab.files.values import is_finite
from loralab.formats.peft.config import PeftConfig, mistyped, parse_config
from loralab.methods.vera import VeRA

VERA_TYPE = "VERA"

_SEEDS = range(-(2**63), 2**64)
"""What torch takes as a seed."""
_AS_IN_LORA = frozenset(
    [
        "base_model_name_or_path",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",
        "peft_version",
        "target_modules",
        "task_type",
    ]
)
"""Keys that mean in VeRA's configuration what they mean in LoRA's."""
_OWN = frozenset(
    [
        "auto_mapping",
        "bias",
        "d_initial",
        "fan_in_fan_out",
        "inference_mode",
        "init_weights",
        "peft_type",
        "projection_prng_key",
        "r",
        "revision",
        "save_projection",
        "vera_dropout",
    ]
)
"""The other keys: those that we act on, and those that say where the adapter came from or how it started."""


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


def is_vera(content: Mapping[str, Any]) -> bool:
    """Whether this adapter_config.json is that of a VeRA adapter of PEFT's."""
    return content.get("peft_type") == VERA_TYPE


def parse_vera(content: Mapping[str, Any], source: str = CONFIG_NAME) -> PeftVeraConfig:
    """The settings; AdapterFileError naming every key whose value we cannot honour."""
    rank = content.get("r", VeRA.rank)
    common = {key: content[key] for key in _AS_IN_LORA & content.keys()} | {"peft_type": "LORA", "r": rank}
    problems = [*_problems(content), *mistyped(common)]
    if problems:
        raise AdapterFileError(f"{source} cannot be loaded as it is meant: " + "; ".join(sorted(problems)))
    bias, dropout = str(content.get("bias") or "none"), float(content.get("vera_dropout") or 0.0)
    return PeftVeraConfig(
        replace(parse_config(common, source), alpha=rank, bias=bias.replace("vera", "lora"), dropout=dropout),
        content.get("projection_prng_key", VeRA.projection_seed),
        content.get("save_projection", True),
        content.get("d_initial", VeRA.d_initial),
    )


def vera_spec(content: Mapping[str, Any], source: str = CONFIG_NAME) -> VeRA:
    """The specification that comes nearest to a configuration of PEFT's."""
    config = parse_vera(content, source)
    common = config.common
    targets = [common.targets] if isinstance(common.targets, str) else list(common.targets or ())
    try:
        return VeRA(
            rank=common.rank,
            dropout=common.dropout,
            d_initial=config.d_initial,
            projection_seed=config.projection_seed,
            targets=targets,
            layers=common.layers,
            bias=common.bias,
            modules_to_save=common.modules_to_save,
        )
    except SpecError as problem:
        raise AdapterFileError(f"{source} cannot be: {problem}") from problem


def _problems(content: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys that are VeRA's own, and keys of which we cannot know what they do."""
    problems = [] if is_vera(content) else [f"peft_type is {content.get('peft_type')!r}, not {VERA_TYPE!r}"]
    problems += [
        f"{key} is {value!r}, which is no setting of PEFT's VeRA, so what it changes is not known"
        for key, value in content.items()
        if value and key not in _OWN | _AS_IN_LORA
    ]
    if content.get("bias") not in (None, "none", "all", "vera_only"):
        problems.append(f"bias is {content['bias']!r}, not 'none', 'all' or 'vera_only'")
    dropout = content.get("vera_dropout") or 0.0
    if not is_finite(dropout) or not 0 <= dropout < 1:
        problems.append(f"vera_dropout is {dropout!r} and must lie in [0, 1)")
    seed = content.get("projection_prng_key", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed not in _SEEDS:
        problems.append(f"projection_prng_key is {seed!r}, not a whole number that torch takes as a seed")
    if not isinstance(content.get("save_projection", True), bool):
        problems.append(f"save_projection is {content['save_projection']!r}, not true or false")
    if not is_finite(content.get("d_initial", 0.1)):
        problems.append(f"d_initial is {content['d_initial']!r}, not a finite number")
    return problems
