"""Which modules and raw parameters of a model a PEFT configuration adapts, and under which keys they are stored.

Where loralab recorded these too, whether both tell one story.

Facts about PEFT 0.21: a list matches whole paths or their endings at a dot, a string the whole path as a regular
expression; what lies in modules_to_save is never adapted. A module with a low-rank update is wrapped, so that its
own tensors and children have `base_layer.` in their keys; each further raw parameter of a module wraps once more.
"""

import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor, nn

from loralab.core.names import inside, modules_by_path, unwrapped
from loralab.core.updates.build import can_adapt
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError, some
from loralab.files.expressions import match_start, matches_whole
from loralab.files.names import CONFIG_NAME
from loralab.formats.peft.config import MERGE, PeftConfig, Targets
from loralab.formats.peft.tokens import DELTA
from loralab.models.families.aliases import output_head_names
from loralab.nn.dense import is_dense

ALL_LINEAR = "all-linear"
A, B = "lora_A.weight", "lora_B.weight"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
PREFIX = "base_model.model."
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
WRAPPED = "base_layer"

BIASES = frozenset({"bias", "out_proj.bias"})
"""Names, within a module, of the biases that PEFT trains."""


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
        "target_modules": (() if isinstance(config.targets, str) else config.targets or (), list(by_path)),
        "target_parameters": (config.target_parameters, parameters),
    }
    return [
        f"{key} names {name!r}, which this model does not have"
        for key, (names, there) in wanted.items()
        for name in names
        if not any(is_named(path, (name, name.removesuffix(f".{WHOLE}"))) for path in there)
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
    return is_target(path, config) or (can_adapt(by_path[path]) and is_target(f"{path}.{WHOLE}", config))


def is_target(path: str, config: PeftConfig) -> bool:
    """Whether the configuration names this path, its exclusions and layers heeded."""
    if config.targets is None or is_named(path, config.exclude):
        return False
    if isinstance(config.targets, str) or path in config.targets:
        return is_named(path, config.targets)
    return is_named(path, config.targets) and _in_layers(path, config)


def is_named(path: str, names: Targets | Collection[str] | None) -> bool:
    """PEFT's rule for targets: a list has the path or its ending at a dot, a string, as an expression, all of it."""
    if isinstance(names, str):
        return bool(names) and matches_whole(names, path)
    return names is not None and (path in names or path.endswith(_endings(tuple(names))))


@cache
def _endings(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f".{name}" for name in names)


def targets_without(config: PeftConfig, names: Iterable[str]) -> list[str]:
    """What the configuration names as a target and `names` does not have; an expression always has some."""
    wanted = config.targets if isinstance(config.targets, tuple) else ()
    present = list(names)
    return [each for each in (*wanted, *parameters_of(config)) if not any(is_named(name, [each]) for name in present)]


def parameters_of(config: PeftConfig) -> list[str]:
    """What target_parameters names, a weight by its module alone."""
    return [name.removesuffix(f".{WHOLE}") for name in config.target_parameters]


def _in_layers(path: str, config: PeftConfig) -> bool:
    if config.layers is None:
        return True
    patterns = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in config.layers_pattern] or [r".*?\.[^.]*\.(\d+)\."]
    layer = next((match for pattern in patterns if (match := match_start(pattern, path))), None)
    return layer is not None and int(layer[1]) in config.layers


def _is_attention_output(by_path: Mapping[str, nn.Module], path: str) -> bool:
    parent, _, leaf = path.rpartition(".")
    return leaf == "out_proj" and isinstance(by_path.get(parent), nn.MultiheadAttention)


def _parameter_targets(by_path: Mapping[str, nn.Module], config: PeftConfig) -> Iterator[PeftTarget]:
    for path, module in by_path.items():
        chosen = [name for name in module._parameters if is_named(f"{path}.{name}", config.target_parameters)]
        for name in chosen:
            yield PeftTarget(path, module, name, parameter_prefix(module, chosen, name))


_HEADS_PEFT_SAVES = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task type -> endings of the modules that PEFT then trains and saves in full, whatever modules_to_save says."""


def heads_peft_saves(task: str | None) -> tuple[str, ...]:
    """Endings of the paths of the modules that PEFT saves in full for this task."""
    return _HEADS_PEFT_SAVES.get(task or "", ())


# -- the keys of a file -----------------------------------------------------------------------------------------------


def plain_names(tensors: Mapping[str, Tensor], children: Collection[str] = ()) -> tuple[dict[str, Tensor], bool]:
    """The tensors without PEFT's prefix and compile's, DDP's and FSDP's names; whether it had any of these.

    `children` are the names of the model's own children, one of which may be called `module`.
    """
    plain = {".".join(piece for piece in key.split(".") if piece not in WRAPPERS): tensors[key] for key in tensors}
    wrapped = plain.keys() != tensors.keys()
    for prefix, is_wrapper in (("module." + PREFIX, True), (PREFIX, False), ("module.", True)):
        if prefix == "module." and "module" in children:
            continue
        if plain and all(key.startswith(prefix) for key in plain):
            plain, wrapped = {key.removeprefix(prefix): each for key, each in plain.items()}, wrapped or is_wrapper
    if len(plain) != len(tensors):
        raise AdapterFileError("after taking wrappers' names out of the keys, some of them are the same")
    return plain, wrapped


def plain_path(keyed: str) -> str:
    """A module's path from its key: without `base_layer`."""
    return ".".join(piece for piece in keyed.split(".") if piece != WRAPPED)


@dataclass(frozen=True)
class Plot:
    """Where every tensor goes: entries of low-rank targets, and tensors that replace a module's own."""

    targets: list[PeftTarget]
    replaced: dict[str, list[str]]
    depths: Mapping[str, int]
    tokens: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    """Module path → the indices of its trained rows, and the path whose rows it shares or nothing."""

    def row_keys(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Module path → the key of its rows: of all that have their own, and of others where the file holds them."""
        keys = {path: f"{key_prefix(path, self.depths)}.{DELTA}" for path in self.tokens}
        return {path: key for path, key in keys.items() if not self.tokens[path][1] or key in tensors}

    def stem(self, target: PeftTarget) -> str:
        """What the keys of a target's tensors begin with."""
        return f"{key_prefix(target.path, self.depths)}.{target.local}"

    @property
    def names(self) -> list[str]:
        """What has low-rank factors."""
        return [target.name for target in self.targets]

    @property
    def heads(self) -> list[str]:
        """Paths of the modules that are saved in full."""
        return [path for path, names in self.replaced.items() if path not in self.depths and not set(names) <= BIASES]

    @property
    def biases(self) -> set[tuple[str, str]]:
        """(module path, name) of the biases that train by themselves."""
        heads = self.heads
        return {(path, name) for path, names in self.replaced.items() if path not in heads for name in names}


# -- whether configuration and tensors tell one story ----------------------------------------------------------------
#
# A folder that loralab wrote says twice where its tensors belong: in loralab.json, and in the adapter_config.json that
# PEFT follows. PEFT drops tensors that its configuration does not name, and starts afresh what it names without
# tensors, so where the two differ one of them is not this adapter's.


def refuse_two_stories(config: PeftConfig, held: Plot, said: Plot) -> None:
    """AdapterFileError naming all that the tensors are of and the configuration does not name, and the reverse.

    `held` is what loralab recorded of the tensors, `said` what the configuration comes to in the same model. A name
    in the configuration that is a whole path of `held` stands for that path, whatever else ends like it.
    """
    names = held.names, _meant(said.names, held.names)
    heads = held.heads, _meant(said.heads, held.heads)
    told = said_targets(config) or "target_modules"
    in_full = f"modules_to_save {list(config.modules_to_save)}"
    problems = [
        *_missing(names[0], names[1], f"{told} does not name {{}}, whose factors are in the file"),
        *_missing(names[1], names[0], f"{told} names {{}}, of which the file has no factors"),
        *_missing(heads[0], heads[1], f"{in_full} does not name {{}}, which the file holds in full"),
        *_missing(heads[1], heads[0], f"{in_full} names {{}}, which the file does not hold"),
    ]
    lost = [f"{path}.{name}" for path, name in sorted(held.biases - said.biases)]
    problems += _missing(lost, [], f"bias {config.bias!r} is not for {{}}, which the file holds")
    if problems:
        raise AdapterFileError(
            f"{CONFIG_NAME} and the tensors tell two stories: {'; '.join(problems)}. PEFT follows the configuration, "
            f"loralab.json the tensors: restore the {CONFIG_NAME} that was saved with them; if it is that one, load "
            "the base that the adapter was trained on: this one has other modules"
        )


def some_modules(tensors: Collection[str]) -> str:
    """The modules that a file's keys begin with, the first few of them, for messages."""
    return some(list(dict.fromkeys(key.partition(".lora_")[0].partition(".vera_")[0] for key in tensors)))


def _meant(said: list[str], held: list[str]) -> list[str]:
    """What is said, without what is found only because a whole path that is held is another path's ending too."""
    return [name for name in said if name in held or not any(name.endswith(f".{path}") for path in held)]


def _missing(wanted: Collection[str], there: Collection[str], sentence: str) -> list[str]:
    absent = [name for name in wanted if name not in there]
    return [sentence.format(some(absent))] if absent else []
