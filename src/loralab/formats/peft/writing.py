"""From an adapter's updates to PEFT's configuration and tensors. The inverse is `reading.py`.

What PEFT can express is written so that PEFT computes the same function; `why_not_peft` says what it cannot.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from loralab.core.names import class_name, modules_by_path, unwrapped
from loralab.core.updates.factors import usual_and_others
from loralab.core.updates.magnitude import Magnitude
from loralab.core.updates.update import WHOLE, Update
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.keys import key_prefix, parameter_prefix, task_type, tensor_key
from loralab.formats.peft.layout import (
    BIASES,
    Packed,
    foreign_dense,
    is_saved_in_full,
    pack,
    taken_for_experts,
)
from loralab.formats.peft.tokens import DELTA, config_tokens, written_rows

PREFIX = "base_model.model."


@dataclass
class PeftAdapter:
    """What goes into a PEFT folder."""

    config: PeftConfig
    tensors: dict[str, Tensor] = field(default_factory=dict)


def to_peft(
    updates: Mapping[str, Update],
    bases: Mapping[str, nn.Module],
    dropout: float,
    model: nn.Module | None,
    stacks: Collection[str] = (),
) -> PeftAdapter:
    """PEFT's configuration and tensors. Without the model, what only it knows (its name, its task) stays unset."""
    recipes = [update.delta_of(part).recipe for update in updates.values() for part in update.parts]
    rank_stabilized = all(recipe.rank_stabilized for recipe in recipes)
    entries = {
        path: pack(update, bases[path], rank_stabilized) for path, update in updates.items() if len(update.parts)
    }
    for path in (*taken_for_experts(updates, stacks), *foreign_dense(updates, bases)):
        entries[path] = [replace(each, parameter=WHOLE) for each in entries[path]]
    heads = [path for path, update in updates.items() if is_saved_in_full(update)]
    depths = {path: len(packed) for path, packed in entries.items()}
    adapter = PeftAdapter(_config(updates, bases, entries, heads, dropout, model))
    for path, packed in entries.items():
        parameters = [each.parameter for each in packed if each.parameter is not None]
        for each in packed:
            local = "" if each.parameter is None else parameter_prefix(bases[path], parameters, each.parameter)
            stem = f"{PREFIX}{key_prefix(path, depths)}.{local}"
            adapter.tensors |= {stem + key: tensor for key, tensor in each.tensors.items()}
    for path, rows in written_rows(updates, model).items():
        adapter.tensors[f"{PREFIX}{key_prefix(path, depths)}.{DELTA}"] = rows.rows_TH.detach()
    adapter.tensors |= tensors_in_full(updates, bases, depths)
    return adapter


def tensors_in_full(
    updates: Mapping[str, Update], bases: Mapping[str, nn.Module], depths: Mapping[str, int]
) -> dict[str, Tensor]:
    """The tensors that updates replace, by PEFT's keys; of a module trained in full those that it saves itself."""
    tensors = {}
    for path, update in updates.items():
        stored = bases[path].state_dict().keys() if is_saved_in_full(update) else None
        for name, tensor in update.replacements().items():
            if stored is None or name in stored:
                tensors[PREFIX + tensor_key(path, name, depths)] = tensor.detach()
    return tensors


def _config(
    updates: Mapping[str, Update],
    bases: Mapping[str, nn.Module],
    entries: Mapping[str, Sequence[Packed]],
    heads: Sequence[str],
    dropout: float,
    model: nn.Module | None,
) -> PeftConfig:
    named = {
        path if each.parameter is None else f"{path}.{each.parameter}": each
        for path, packed in entries.items()
        for each in packed
    }
    usual, ranks, alphas = usual_and_others({_anchored(name): each.recipe for name, each in named.items()})
    invocation = next((update.invocation for update in updates.values() if update.invocation), ())
    modules = [path for path, packed in entries.items() if all(each.parameter is None for each in packed)]
    there = list(modules_by_path(model)) if model is not None else None
    targets: str | tuple[str, ...] = shortest_names(modules, there) if there is not None else tuple(modules)
    return PeftConfig(
        rank=usual.rank,
        alpha=usual.alpha,
        dropout=0.0 if len(modules) < len(entries) else dropout,
        rank_stabilized=usual.rank_stabilized,
        bias=trained_biases(updates),
        targets=targets,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        modules_to_save=tuple(heads),
        target_parameters=tuple(name for name, each in named.items() if each.parameter is not None),
        base_model=base_name(model),
        task_type="CAUSAL_LM" if invocation else task_type(model, heads),  # else PEFT looks for no invocation
        fan_in_fan_out=any(class_name(bases[path]) == "Conv1D" for path in modules),
        magnitude=any(isinstance(update, Magnitude) for update in updates.values()),
        tokens=config_tokens(updates, model),
        invocation=invocation,
    )


def shortest_names(paths: Sequence[str], there: Sequence[str]) -> str | tuple[str, ...]:
    """The target_modules that name exactly `paths` among the module paths `there`: last components where they do.

    A path that is also the ending of another module's path needs a regular expression instead of a list.
    """
    chosen = set(paths)
    names = []
    for path in paths:
        leaf = path.rpartition(".")[2]
        alike = [other for other in there if other == leaf or other.endswith("." + leaf)]
        names.append(leaf if chosen.issuperset(alike) and not leaf.isdigit() else path)
    names = list(dict.fromkeys(names))
    matched = {other for other in there for name in names if other == name or other.endswith("." + name)}
    return tuple(names) if matched <= chosen else "|".join(re.escape(path) for path in paths)


def _anchored(name: str) -> str:
    return "^" + re.escape(name)


def trained_biases(updates: Mapping[str, Update]) -> str:
    trained = [
        update for update in updates.values() if BIASES & set(update.replacements()) and not is_saved_in_full(update)
    ]
    if not trained:
        return "none"
    return "lora_only" if all(len(update.parts) for update in trained) else "all"


def base_name(model: nn.Module | None) -> str | None:
    """The name or folder that a transformers model was loaded from."""
    inner = None if model is None else unwrapped(model)
    name = getattr(inner, "name_or_path", None) or getattr(getattr(inner, "config", None), "_name_or_path", None)
    return str(name) if name else None
