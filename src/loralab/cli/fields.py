"""The fields of a configuration dataclass as the command line sees them.

A field's documentation is the string under the field and is nowhere else; it is read from the source.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
from dataclasses import MISSING, dataclass
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

FLAGS = "flags"
"""The group of a field that names none."""


STANDS_FOR = (
    {"model": "MODEL", "task": "TASK", "out": "PATH", "data": "PATH", "text": "PATH", "from": "PATH"}
    | dict.fromkeys(("adapter", "adapters", "folders", "init_adapter", "healed", "src", "dst"), "PATH")
    | dict.fromkeys(("predictions", "references", "task_data"), "PATH")
)
"""What a text is, by its field's name, where that can be said."""


@dataclass(frozen=True)
class ConfigField:
    """One field: `kinds` are the members of its type without None; `optional` says that None was there."""

    name: str
    kinds: tuple[Any, ...]
    optional: bool
    default: Any
    documentation: str
    positional: bool
    group: str
    only_with: str
    """The one method, or value of another field, that it counts for; empty where it always counts."""
    names: tuple[str, ...]
    """Names that are kept in a table and that it takes; empty where there is no such table."""
    also: tuple[str, ...]
    """Other names by which it is given as a flag."""

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def key(self) -> str:
        """Its name for users: a field `from_` stands for `from`, which Python keeps for itself."""
        return self.name.removesuffix("_")

    @property
    def label(self) -> str:
        """How messages and help call the field: `--max-length`, or `ADAPTER` for a positional one."""
        return self.flags[0].removeprefix("--").upper() if self.positional else self.flags[0]

    @property
    def flags(self) -> tuple[str, ...]:
        """As a flag; one that is given by its place can be given so too."""
        return tuple(f"--{name.replace('_', '-')}" for name in (self.key, *self.also))

    @property
    def is_switch(self) -> bool:
        return self.kinds == (bool,)

    @property
    def has_a_switch(self) -> bool:
        """Whether it is a switch that can be given a value as well: `--resume`, `--resume auto`."""
        return bool in self.kinds and not self.is_switch

    @property
    def stands_for(self) -> str:
        """A word for a text that it takes."""
        return STANDS_FOR.get(self.key, "TEXT")

    @property
    def takes_several(self) -> bool:
        """Whether its value has items, written with commas or by giving the flag again."""
        return any(is_list(kind) or is_mapping(kind) for kind in self.kinds)


def config_fields(config: type[Any]) -> tuple[ConfigField, ...]:
    """What `__init__` takes, in the order of the class, its bases' last but for those that say `first`.

    Raises TypeError for a field without documentation.
    """
    hints = get_type_hints(config)
    documentation = field_documentation(config)
    undocumented = [field.name for field in dataclasses.fields(config) if field.name not in documentation]
    if undocumented:
        raise TypeError(f"{config.__name__}: no documentation string under {', '.join(undocumented)}")
    return tuple(
        ConfigField(
            name=field.name,
            kinds=tuple(kind for kind in members(hints[field.name]) if kind is not type(None)),
            optional=type(None) in members(hints[field.name]),
            default=field.default if field.default_factory is MISSING else field.default_factory(),
            documentation=_with_names(documentation[field.name], field),
            positional=bool(field.metadata.get("positional", False)),
            group=_group(field),
            only_with=str(field.metadata.get("only_with", "")),
            names=tuple(field.metadata.get("names", ())),
            also=tuple(field.metadata.get("also", ())),
        )
        for field in sorted(dataclasses.fields(config), key=lambda field: _place(config, field))
        if field.init
    )


def _group(field: dataclasses.Field[Any]) -> str:
    """Its title on the help page."""
    only_with = field.metadata.get("only_with")
    return str(field.metadata.get("group", FLAGS)) if only_with is None else f"only with {only_with}"


def _with_names(documentation: str, field: dataclasses.Field[Any]) -> str:
    """`{names}` stands for names that are kept in a table, which the field's metadata gives."""
    return documentation.replace("{names}", ", ".join(field.metadata.get("names", ())))


def _place(config: type[Any], field: dataclasses.Field[Any]) -> tuple[bool, int]:
    """Where the class of a field stands: those that say `first`, then the others, each in the order of resolution."""
    owners = enumerate(config.__mro__)
    place, owner = next(each for each in owners if field.name in inspect.get_annotations(each[1]))
    return not vars(owner).get("first", False), place


def members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union type, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def is_list(kind: Any) -> bool:
    """Whether a type is written with commas on the command line."""
    return get_origin(kind) in (tuple, list)


def is_mapping(kind: Any) -> bool:
    """Whether a type is written as `key=value,key=value` on the command line."""
    return get_origin(kind) is dict or (inspect.isclass(kind) and issubclass(kind, dict))


def choices(kind: Any) -> tuple[Any, ...]:
    """The values of a `Literal`; nothing for other types."""
    return get_args(kind) if get_origin(kind) is Literal else ()


def field_documentation(config: type[Any]) -> dict[str, str]:
    """Field name → the string under it, base classes included, with line breaks folded into spaces."""
    documentation: dict[str, str] = {}
    for owner in reversed(config.__mro__):
        if dataclasses.is_dataclass(owner):
            documentation |= _documentation_in(owner)
    return documentation


def _documentation_in(owner: type[Any]) -> dict[str, str]:
    module = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    body = module.body[0].body if isinstance(module.body[0], ast.ClassDef) else []
    documentation = {}
    for statement, below in pairwise(body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            documentation[statement.target.id] = " ".join(str(below.value.value).split())
    return documentation
