"""From an adapter's updates to PEFT's configuration and tensors. The inverse is `reading.py`.

What PEFT can express is written so that PEFT computes the same function; `why_not_peft` says what it cannot.
"""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from loralab.core.names import class_name, modules_by_path, unwrapped
from loralab.core.updates.factors import usual_and_others
from loralab.core.updates.low_rank import LinearUpdate
from loralab.core.updates.magnitude import Magnitude
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import WHOLE, Update
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.keys import (
    BIASES,
    PREFIX,
    heads_peft_saves,
    is_named,
    key_prefix,
    parameter_prefix,
    tensor_key,
)
from loralab.formats.peft.layout import PeftEntry, pack, why_not_form
from loralab.formats.peft.tokens import DELTA, ambiguous_rows, config_tokens, why_not_peft_rows, written_rows
from loralab.models.embedded import published_name


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
    entries: Mapping[str, Sequence[PeftEntry]],
    heads: Sequence[str],
    dropout: float,
    model: nn.Module | None,
) -> PeftConfig:
    named = {
        path if each.parameter is None else f"{path}.{each.parameter}": each
        for path, packed in entries.items()
        for each in packed
    }
    usual, ranks, alphas = usual_and_others({f"^{re.escape(name)}": each.recipe for name, each in named.items()})
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
    matched = {other for other in there if is_named(other, names)}
    return tuple(names) if matched <= chosen else "|".join(re.escape(path) for path in paths)


def trained_biases(updates: Mapping[str, Update]) -> str:
    trained = [
        update for update in updates.values() if BIASES & set(update.replacements()) and not is_saved_in_full(update)
    ]
    if not trained:
        return "none"
    return "lora_only" if all(len(update.parts) for update in trained) else "all"


def base_name(model: nn.Module | None) -> str | None:
    """The folder or Hub id that a transformers model was loaded from; of an embedded one the id of its origin."""
    inner = None if model is None else unwrapped(model)
    name = getattr(inner, "name_or_path", None) or getattr(getattr(inner, "config", None), "_name_or_path", None)
    return published_name(str(name)) if name else None


# -- PEFT's task types ----------------------------------------------------------------------------------------------

_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "MTModel": "SEQ_2_SEQ_LM",
    "EncoderDecoderModel": "SEQ_2_SEQ_LM",
}
"""Ending of a class's name -> the task type that it may have."""
_TEXT = ("input_ids", "attention_mask", "inputs_embeds")
_PASSED = {
    "CAUSAL_LM": (*_TEXT, "labels"),
    "SEQ_CLS": (*_TEXT, "labels"),
    "TOKEN_CLS": (*_TEXT, "labels"),
    "QUESTION_ANS": (*_TEXT, "start_positions", "end_positions"),
    "SEQ_2_SEQ_LM": (*_TEXT, "labels", "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds"),
}
"""Task type -> the arguments that its wrapper in PEFT 0.21 passes in every call."""
_OTHER_SENSES = ("pixel_", "image", "video", "audio", "input_features", "input_values")
"""What the arguments of a model begin with that reads more than text."""


def task_type(model: nn.Module | None, heads: Sequence[str]) -> str | None:
    """PEFT's task type, None where its wrapper does not fit the model or expects a head that is not among `heads`."""
    if model is None:
        return None
    inner = unwrapped(model)
    task = next((task for ending, task in _TASKS.items() if type(inner).__name__.endswith(ending)), None)
    if task is None or not _takes(inner, task):
        return None
    expected = [path for path in modules_by_path(model) if path.endswith(heads_peft_saves(task))]
    return task if set(expected) <= set(heads) else None


def _takes(model: nn.Module, task: str) -> bool:
    arguments = inspect.signature(type(model).forward).parameters
    return set(_PASSED[task]) <= arguments.keys() and not any(each.startswith(_OTHER_SENSES) for each in arguments)


# -- what PEFT cannot express ---------------------------------------------------------------------------------------

FUSED_EXPERTS = "gate_up_proj"
EXPERTS_HAD = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def why_not_written(
    updates: Mapping[str, Update], bases: Mapping[str, nn.Module], model: nn.Module | None, stacks: Collection[str]
) -> list[str]:
    """Every reason why an adapter cannot be a LoRA adapter of PEFT's; none where it can."""
    reasons = [*reasons_against_peft(updates, bases, stacks), *ambiguous_rows(updates, model)]
    if not any(len(update.parts) for update in updates.values()):
        reasons.append("PEFT's LoRA needs a low-rank update, and this adapter has none")
    return reasons


def reasons_of_places(updates: Mapping[str, Update], elsewhere: Mapping[str, Sequence[str]]) -> list[str]:
    """For every module that hangs in several places of the model and is more than its bias: its path and why not."""
    changed = [path for path, update in updates.items() if len(update.parts) or is_saved_in_full(update)]
    return [
        f"{path}: the model has the same module at {', '.join(elsewhere[path])}, where PEFT leaves the base as it is"
        for path in changed
        if path in elsewhere
    ]


def reasons_against_peft(
    updates: Mapping[str, Update], bases: Mapping[str, nn.Module], stacks: Collection[str] = ()
) -> list[str]:
    """For every update that PEFT cannot express: its path and why. `stacks` are those of the model (`Adapter`)."""
    reasons = [
        f"{path}: PEFT takes a target of this name for the model's fused experts, and as a parameter it has no DoRA"
        for path in taken_for_experts(updates, stacks)
        if isinstance(updates[path], Magnitude)
    ]
    reasons += [
        f"{path}: PEFT adapts no {class_name(bases[path])}, and as a parameter it has no DoRA"
        for path in foreign_dense(updates, bases)
        if isinstance(updates[path], Magnitude)
    ]
    for path, update in updates.items():
        why = why_not_peft(update, bases[path])
        if why:
            reasons.append(f"{path}: {why}")
    adapted = [class_name(bases[path]) for path, update in updates.items() if len(update.parts)]
    if {"Conv1D", "MultiheadAttention"} <= set(adapted):
        reasons.append("PEFT transposes the update of an nn.MultiheadAttention beside that of a transformers Conv1D")
    stretched = [isinstance(update, Magnitude) for update in updates.values() if len(update.parts)]
    if any(stretched) and not all(stretched):
        reasons.append("PEFT trains the lengths of all adapted modules' weights (DoRA), or of none")
    invocations = {update.invocation for update in updates.values() if len(update.parts)}
    if len(invocations) > 1:
        reasons.append("PEFT has all adapted modules act from one invocation on (aLoRA), or from none")
    if any(invocations) and any(is_saved_in_full(update) for update in updates.values()):
        reasons.append("PEFT looks for an invocation (aLoRA) in causal language models alone, which have no fresh head")
    return reasons


def why_not_peft(update: Update, base: nn.Module) -> str | None:
    """Why PEFT cannot express this update, or None if it can."""
    if isinstance(update, TokenUpdate):
        return why_not_peft_rows(base)
    if why := why_not_form(update, base):
        return why
    if update.why_not_merged and not update.invocation:
        return f"it is {update.why_not_merged}"
    if not update.is_plain:
        kinds = dict.fromkeys(update.delta_of(part).kind for part in update.parts)
        return f"PEFT's LoRA trains one pair A, B for a module, and here it is {', '.join(kinds)}"
    if update.parts and not set(update.replacements()) <= BIASES:
        return "PEFT does not replace other tensors than the bias of a module with a low-rank update"
    return None


def is_saved_in_full(update: Update) -> bool:
    """Whether the update is a module trained in full rather than a low-rank update or a bias."""
    return not len(update.parts) and not set(update.replacements()) <= BIASES


def taken_for_experts(updates: Mapping[str, Update], stacks: Collection[str]) -> list[str]:
    """Paths of the dense layers that PEFT would take for a model's fused experts if target_modules named them.

    In a model whose experts transformers 5 keeps in one tensor, PEFT 0.21 reads these names, which the experts' own
    layers had before, as the name of that tensor, for whatever layer they stand. As target_parameters it adapts them.
    """
    if FUSED_EXPERTS not in stacks:
        return []
    dense = [path for path, update in updates.items() if update.parts and isinstance(update, LinearUpdate)]
    return [path for path in dense if path.rpartition(".")[2] in EXPERTS_HAD]


def foreign_dense(updates: Mapping[str, Update], bases: Mapping[str, nn.Module]) -> list[str]:
    """Paths of dense layers of a class that PEFT does not know; as target_parameters it adapts them."""
    dense = [path for path, update in updates.items() if WHOLE in update.parts and isinstance(update, LinearUpdate)]
    return [path for path in dense if _is_foreign(bases[path])]


def _is_foreign(base: nn.Module) -> bool:
    weight = base._parameters.get(WHOLE)
    plain = weight is not None and weight.is_floating_point() and weight.dim() == 2  # not packed by quantisation
    return plain and not isinstance(base, nn.Linear) and class_name(base) not in ("Linear", "Conv1D")
