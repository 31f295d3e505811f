"""Aliases for the parts of a model: which of its modules are "attention", "q", "mlp", …, and which are its
heads.

It knows models only by `config.model_type` and the names of their modules (never transformers itself), and
nothing of adapters. The names are in `family_table`, the fused projections in `fused`.
"""

import re
from typing import Any

import torch
from torch import nn

from loralab.errors import TargetError
from loralab.models.families.table import FAMILY_BY_TYPE, Family, Patterns

ALIASES = ("q", "k", "v", "o", "attention", "mlp")

HEAD_NAMES = frozenset({"lm_head", "score", "classifier", "qa_outputs", "proj_out", "embed_out", "output_projection"})
"""What heads are called at the top of a model that does not say where its base is."""

_NESTED = ("text_config", "vision_config", "encoder", "decoder")


def family_of(model: nn.Module) -> Family | None:
    """The family of `model`, or of the first known model inside a composite one; None if neither is known."""
    config = _family_config(model)
    return None if config is None else FAMILY_BY_TYPE[config.model_type]


def expand_alias(model: nn.Module, alias: str) -> list[str]:
    """The target patterns that `alias` means on `model`: ends of module paths, `c_attn[q,v]` for parts of a
    fused one.

    Only patterns that match are returned; raw expert parameters are matched by their own path. Raises
    `TargetError` for an alias that is not in `ALIASES`, a model of no known family, or one that has no such
    part.
    """
    family = family_of(model)
    if family is None:
        raise TargetError(_unknown_family(model, alias))
    by_alias = {"q": family.query, "k": family.key, "v": family.value, "o": family.output, "mlp": family.mlp}
    by_alias["attention"] = family.query + family.key + family.value + family.output
    if alias not in by_alias:
        raise TargetError(f"no alias is called {alias!r}; there are: {', '.join(ALIASES)}")
    paths = _paths(model)
    present = [concrete for pattern in by_alias[alias] for concrete in _present(pattern, paths)]
    if not present:
        raise TargetError(
            f"{alias!r} means {', '.join(by_alias[alias])} on {_name(model)}, which it does not have; "
            f"name the modules by hand, for example: {_examples(model)}"
        )
    return _merge_parts(present)


def default_targets(model: nn.Module) -> list[str]:
    """The patterns that LoRA adapts unless told otherwise: queries and values, as in the paper (§5.1).

    Raises `TargetError` for a model of no known family.
    """
    return _merge_parts([*expand_alias(model, "q"), *expand_alias(model, "v")])


def sublayer_outputs(model: nn.Module) -> tuple[list[str], list[str]]:
    """The patterns of (the projections that end an attention, those that end a feed-forward): what is added to the
    residual stream is their output.

    Raises `TargetError` for a model of no known family, or one without such modules.
    """
    family = family_of(model)
    if family is None:
        raise TargetError(_unknown_family(model, "attention"))
    paths = _paths(model)
    last = next((path for pattern in reversed(family.mlp) if (path := _present(pattern, paths))), None)
    if last is None:
        raise TargetError(f"{_name(model)} has no feed-forward ending in {', '.join(family.mlp)}; name it by hand")
    return expand_alias(model, "o"), last


def fused_layout(model: nn.Module, module_path: str, out_features: int) -> dict[str, torch.Tensor] | None:
    """Part name ("q", "k", "v") -> its output rows (1-D int64, ascending) in the fused projection at
    `module_path`.

    None if the family is not known or the module is not a fused projection of it. Raises `TargetError` if
    the rows do not fit the model's config.
    """
    config = _family_config(model)
    if config is None:
        return None
    for pattern, layout in FAMILY_BY_TYPE[config.model_type].fused.items():
        if _ends_in(module_path, pattern):
            try:
                return layout(config, out_features)
            except ValueError as error:
                raise TargetError(f"{module_path} of {_name(model)} cannot be split into q, k, v: {error}") from error
    return None


def output_head_names(model: nn.Module) -> set[str]:
    """Paths of the output heads and of every module inside them: never part of "all-linear".

    A head is what stands beside the base model (`base_model_prefix`), bears a head's name at the top, or is
    what the model itself calls its output embeddings.
    """
    base = getattr(model, "base_model_prefix", "")
    children = dict(model.named_children())
    heads = {
        name
        for name, child in children.items()
        if name in HEAD_NAMES or (base in children and name != base and next(child.parameters(), None) is not None)
    }
    inside = {path for path, _ in model.named_modules() if path.split(".")[0] in heads}
    return inside | _output_embeddings(model)


def block_paths(model: nn.Module) -> list[str]:
    """Paths of the lists of layers (`model.layers`; two for an encoder and decoder). Empty if not known."""
    family = family_of(model)
    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return [] if family is None else [path for path in lists if _ends_in_any(path, family.blocks)]


def final_norm_paths(model: nn.Module) -> list[str]:
    """Paths of the norms after the last layer. Empty if not known or if there is none."""
    family = family_of(model)
    return [] if family is None else _outside_blocks(model, family.final_norm)


def embedding_paths(model: nn.Module) -> list[str]:
    """Paths of the modules that embed tokens or image patches. Empty if not known."""
    family = family_of(model)
    return [] if family is None else _outside_blocks(model, family.embedding)


def _family_config(model: nn.Module) -> Any | None:
    """The config whose `model_type` is in the table: the model's own, else one nested in it."""
    config = getattr(model, "config", None)
    candidates = [config, *(getattr(config, name, None) for name in _NESTED)]
    for candidate in candidates:
        if getattr(candidate, "model_type", None) in FAMILY_BY_TYPE:
            return candidate
    return None


def _present(pattern: str, paths: list[str]) -> list[str]:
    """`pattern` if it matches one of `paths`; one pattern per layer if it holds `#`."""
    stem = pattern.split("[")[0]
    if "#" not in stem:
        return [pattern] if any(_ends_in(path, stem) for path in paths) else []
    end = re.compile(r"(?:^|\.)(" + re.escape(stem).replace(r"\#", r"\d+") + r")$")
    return list(dict.fromkeys(match[1] for path in paths if (match := end.search(path))))


def _merge_parts(patterns: list[str]) -> list[str]:
    """One pattern per module: `c_attn[q]` and `c_attn[v]` become `c_attn[q,v]`. Order kept, repeats
    dropped.
    """
    parts: dict[str, list[str]] = {}
    for pattern in patterns:
        stem, _, rest = pattern.partition("[")
        named = parts.setdefault(stem, [])
        named.extend(part for part in rest.rstrip("]").split(",") if part and part not in named)
    return [f"{stem}[{','.join(named)}]" if named else stem for stem, named in parts.items()]


def _paths(model: nn.Module) -> list[str]:
    """Every module's path, then every raw 3-D parameter's: the stacked weights of experts."""
    modules = [path for path, _ in model.named_modules()]
    return modules + [path for path, parameter in model.named_parameters() if parameter.dim() == 3]


def _outside_blocks(model: nn.Module, patterns: Patterns) -> list[str]:
    blocks = tuple(f"{path}." for path in block_paths(model))
    paths = [path for path, module in model.named_modules() if not isinstance(module, nn.Identity)]
    return [path for path in paths if _ends_in_any(path, patterns) and not path.startswith(blocks)]


def _output_embeddings(model: nn.Module) -> set[str]:
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    return {path for path, module in model.named_modules() if module is head}


def _ends_in(path: str, pattern: str) -> bool:
    return path == pattern or path.endswith(f".{pattern}")


def _ends_in_any(path: str, patterns: Patterns) -> bool:
    return any(_ends_in(path, pattern) for pattern in patterns)


def _name(model: nn.Module) -> str:
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return type(model).__name__ + (f" (model type {model_type!r})" if model_type else "")


def _examples(model: nn.Module, limit: int = 8) -> str:
    """The last names of some layers with a weight matrix."""
    weights = ((path, getattr(module, "weight", None)) for path, module in model.named_modules())
    matrices = (path for path, weight in weights if isinstance(weight, torch.Tensor) and weight.dim() >= 2)
    return ", ".join(list(dict.fromkeys(path.split(".")[-1] for path in matrices))[:limit]) or "it has none"


def _unknown_family(model: nn.Module, alias: str) -> str:
    return (
        f"the alias {alias!r} is not known for {_name(model)}, which is of no family in the table; "
        f"name the modules by hand or by a regular expression, for example: {_examples(model)}"
    )
