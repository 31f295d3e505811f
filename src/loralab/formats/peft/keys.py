"""Which modules and raw parameters of a model a PEFT configuration adapts, and under which keys they are stored.

Facts about PEFT 0.21: a list matches whole paths or their endings at a dot, a string the whole path as a regular
expression; what lies in modules_to_save is never adapted. A module with a low-rank update is wrapped, so that its
own tensors and children have `base_layer.` in their keys; each further raw parameter of a module wraps once more.
"""

import inspect
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from loralab.core.names import inside, modules_by_path, unwrapped
from loralab.core.updates.build import can_adapt
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError
from loralab.formats.peft.config import PeftConfig, Targets
from loralab.formats.peft.instead import MERGE
from loralab.models.families.aliases import output_head_names
from loralab.nn.dense import is_dense

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class PeftTarget:
    """A module, or a raw parameter of one, that PEFT adapts. `local` is the prefix of its keys below the module's."""

    path: str
    module: nn.Module
    parameter: str | None = None
    local: str = ""

    @property
    def name(self) -> str:
        """What rank and alpha patterns are matched against."""
        return self.path if self.parameter is None else f"{self.path}.{self.parameter}"


def find_peft_targets(model: nn.Module, config: PeftConfig) -> list[PeftTarget]:
    """All targets in the model's order; AdapterFileError if there are none, or one cannot be adapted."""
    by_path = modules_by_path(model)
    targets = named_targets(model, config)
    modules = [target for target in targets if target.parameter is None]
    problems = [
        f"target_modules names {target.path}, a {type(target.module).__name__}, which cannot be adapted: its forward "
        "is not the product, lookup or convolution of a plain layer, and what PEFT computes there has no equal here "
        f"({MERGE})"
        for target in modules
        if not can_adapt(target.module)
    ]
    problems += [
        f"{target.path} belongs to an nn.MultiheadAttention, which does not call it"
        for target in modules
        if _is_attention_output(by_path, target.path)
    ]
    if not targets:
        problems += unmatched_names(model, config) or [f"{said_targets(config)} names nothing that it has"]
    if problems:
        raise AdapterFileError("the adapter does not fit this model: " + "; ".join(problems))
    return targets


def named_targets(model: nn.Module, config: PeftConfig) -> list[PeftTarget]:
    """Every module and raw parameter that the configuration names, in the model's order, whether or not it fits."""
    by_path = modules_by_path(model)
    targets = [PeftTarget(path, by_path[path]) for path in _target_paths(model, config, saved_modules(model, config))]
    return [*targets, *_parameter_targets(by_path, config)]


def said_targets(config: PeftConfig) -> str:
    """What the configuration says about its targets, for messages."""
    fields = {
        "target_modules": config.targets,
        "exclude_modules": config.exclude,
        "layers_to_transform": config.layers,
        "target_parameters": config.target_parameters,
    }
    return ", ".join(f"{name} {reprlib.repr(value)}" for name, value in fields.items() if value)


def saved_modules(model: nn.Module, config: PeftConfig) -> list[str]:
    """Paths of the modules that PEFT trains in full: PEFT matches endings of the path, also inside a name.

    Among them are those of the task's head, which PEFT did not write into modules_to_save before the spring of 2024.
    """
    names = (*config.modules_to_save, *heads_peft_saves(config.task_type))
    return [path for path in modules_by_path(model) if path.endswith(names)]


def unmatched_names(model: nn.Module, config: PeftConfig) -> list[str]:
    """What to say about names in the configuration that the model does not have (PEFT accepts them)."""
    by_path = modules_by_path(model)
    parameters = [f"{path}.{name}" for path, module in by_path.items() for name in module._parameters]
    wanted = {
        "target_modules": (_alternatives(config.targets), list(by_path)),
        "target_parameters": (config.target_parameters, parameters),
    }
    return [
        f"{key} names {name!r}, which this model does not have"
        for key, (names, there) in wanted.items()
        for name in names
        if not any(_named(path, (name, name.removesuffix(f".{WHOLE}"))) for path in there)
    ]


def wrap_depths(targets: Sequence[PeftTarget]) -> dict[str, int]:
    """Module path → how many times PEFT wraps that module."""
    depths: dict[str, int] = {}
    for target in targets:
        depths[target.path] = depths.get(target.path, 0) + 1
    return depths


def key_prefix(path: str, depths: Mapping[str, int]) -> str:
    """The path as it stands in PEFT's keys: with `base_layer` after every wrapped module above it."""
    pieces = path.split(".")
    keyed = []
    for end, piece in enumerate(pieces, start=1):
        keyed.append(piece)
        if end < len(pieces):
            keyed += ["base_layer"] * depths.get(".".join(pieces[:end]), 0)
    return ".".join(keyed)


def tensor_key(path: str, name: str, depths: Mapping[str, int]) -> str:
    """The key of a tensor that the module at `path` itself holds, such as its bias."""
    if name == "out_proj.bias" and depths.get(path):
        return f"{key_prefix(path, depths)}.base_layer.out_proj.base_layer.bias"
    return ".".join([key_prefix(path, depths), *["base_layer"] * depths.get(path, 0), name])


def parameter_prefix(module: nn.Module, parameters: Sequence[str], parameter: str) -> str:
    """`base_layer.` once for each targeted parameter that the module registers after this one."""
    order = [name for name in module._parameters if name in parameters]
    return "base_layer." * (len(order) - 1 - order.index(parameter))


def _target_paths(model: nn.Module, config: PeftConfig, saved: Sequence[str]) -> list[str]:
    by_path = modules_by_path(model)
    if isinstance(config.targets, str) and config.targets.lower() == ALL_LINEAR:
        heads = output_head_names(unwrapped(model))
        linear = [path for path, module in by_path.items() if is_dense(module) and path not in heads]
        return [path for path in linear if not _is_attention_output(by_path, path) and not inside(path, saved)]
    return [path for path in by_path if _names_module(by_path, path, config) and not inside(path, saved)]


def _names_module(by_path: Mapping[str, nn.Module], path: str, config: PeftConfig) -> bool:
    """Whether the configuration names this module, by its own name or by that of its weight (`q_proj.weight`)."""
    return _is_target(path, config) or (can_adapt(by_path[path]) and _is_target(f"{path}.{WHOLE}", config))


def _is_target(path: str, config: PeftConfig) -> bool:
    if config.targets is None or _named(path, config.exclude):
        return False
    if isinstance(config.targets, str) or path in config.targets:
        return _named(path, config.targets)
    return _named(path, config.targets) and _in_layers(path, config)


def _named(path: str, names: Targets) -> bool:
    if isinstance(names, str):
        return bool(names) and re.fullmatch(names, path) is not None
    return any(path == name or path.endswith("." + name) for name in names)


def _alternatives(targets: Targets | None) -> tuple[str, ...]:
    return () if targets is None or isinstance(targets, str) else targets


def _in_layers(path: str, config: PeftConfig) -> bool:
    if config.layers is None:
        return True
    patterns = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in config.layers_pattern] or [r".*?\.[^.]*\.(\d+)\."]
    layer = next((match for pattern in patterns if (match := re.match(pattern, path))), None)
    return layer is not None and int(layer[1]) in config.layers


def _is_attention_output(by_path: Mapping[str, nn.Module], path: str) -> bool:
    parent, _, leaf = path.rpartition(".")
    return leaf == "out_proj" and isinstance(by_path.get(parent), nn.MultiheadAttention)


def _parameter_targets(by_path: Mapping[str, nn.Module], config: PeftConfig) -> Iterator[PeftTarget]:
    for path, module in by_path.items():
        chosen = [name for name in module._parameters if _named(f"{path}.{name}", config.target_parameters)]
        for name in chosen:
            yield PeftTarget(path, module, name, parameter_prefix(module, chosen, name))


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
_HEADS_PEFT_SAVES = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task type -> endings of the modules that PEFT then trains and saves in full, whatever modules_to_save says."""


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


def heads_peft_saves(task: str | None) -> tuple[str, ...]:
    """Endings of the paths of the modules that PEFT saves in full for this task."""
    return _HEADS_PEFT_SAVES.get(task or "", ())


def _takes(model: nn.Module, task: str) -> bool:
    arguments = inspect.signature(type(model).forward).parameters
    return set(_PASSED[task]) <= arguments.keys() and not any(each.startswith(_OTHER_SENSES) for each in arguments)


WRAPPED = "base_layer"


def plain_path(keyed: str) -> str:
    """A module's path from its key: without `base_layer`."""
    return ".".join(piece for piece in keyed.split(".") if piece != WRAPPED)
