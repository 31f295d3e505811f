"""Arguments of one verb, and its help page, generated from its configuration dataclass.

Written on argparse rather than on tyro: tyro costs 0.2 s before any of our own code runs (the whole budget
of `--help` is 0.5 s), draws its own error boxes where we print one `error: …`, and splits lists at spaces
where we split at commas.
"""

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from loralab.cli.fields import ConfigField, choices, config_fields, is_list, is_mapping
from loralab.cli.settings import join_problems, near_misses
from loralab.cli.showing import WIDTH
from loralab.errors import SpecError

HELP_COLUMN = 26
RESERVED = {"config": "FILE.toml", "json": "", "help": ""}
RESERVED_HELP = {
    "config": "Read flags from a TOML file with the same names; flags given here win.",
    "json": "Print one JSON object as the last line of stdout.",
    "help": "Show this page.",
}


@dataclass(frozen=True)
class Arguments:
    """What was written after the verb: the text of each flag by field name, the TOML file, and `--json`."""

    flags: dict[str, Any]
    config_file: str | None
    json: bool
    help: bool


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are SpecErrors."""

    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{message.replace('argument ', '', 1)} (see {self.prog} --help)")


def parse_arguments(program: str, config: type[Any], arguments: Sequence[str]) -> Arguments:
    """Sort the arguments into flags, whose values are not read yet. Raises SpecError for unknown flags."""
    fields = config_fields(config)
    parser = _Parser(prog=program, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for field in fields:
        _add(parser, field)
    parser.add_argument("--config", dest=":config", default=None)
    parser.add_argument("--json", dest=":json", action="store_true", default=False)
    parser.add_argument("-h", "--help", dest=":help", action="store_true", default=False)
    known, unknown = parser.parse_known_args(list(arguments))
    values = vars(known)
    if unknown and not values[":help"]:
        labels = [field.label for field in fields] + [f"--{name}" for name in RESERVED]
        raise SpecError(f"{_unknown(unknown, labels)} (see {program} --help)")
    flags = {name: value for name, value in values.items() if not name.startswith(":")}
    return Arguments(flags, values[":config"], values[":json"], values[":help"])


def help_page(program: str, summary: str, example: str, config: type[Any]) -> str:
    """The page that `--help` prints: 80 columns, required fields first, each flag with its documentation."""
    fields = config_fields(config)
    required = [field for field in fields if field.required]
    groups: dict[str, list[ConfigField]] = {}
    for field in fields:
        if not field.required:
            groups.setdefault(field.group, []).append(field)
    usage = " ".join([f"usage: {program}", *(_usage(field) for field in required), "[flags]"])
    parts = [textwrap.fill(usage, WIDTH, subsequent_indent="  "), summary]
    for title, members in {"required": required, **groups}.items():
        if members:
            parts.append("\n".join([f"{title}:", *(_entry(_written(field), _explained(field)) for field in members)]))
    reserved = [_entry(f"--{name} {metavar}".strip(), RESERVED_HELP[name]) for name, metavar in RESERVED.items()]
    parts.append("\n".join(["every verb:", *reserved]))
    parts.append(f"example:\n{textwrap.indent(example, '  ')}")
    return "\n\n".join(parts) + "\n"


def _add(parser: argparse.ArgumentParser, field: ConfigField) -> None:
    if field.name in RESERVED:
        raise TypeError(f"--{field.name} belongs to every verb: a field cannot have its name")
    if field.positional:
        several = any(is_list(kind) for kind in field.kinds)
        parser.add_argument(field.name, nargs="*" if several else "?", default=argparse.SUPPRESS)
    elif field.is_switch:
        parser.add_argument(field.label, dest=field.name, action=argparse.BooleanOptionalAction)
    else:
        parser.add_argument(field.label, dest=field.name)


def _unknown(arguments: list[str], labels: list[str]) -> str:
    """What to say of arguments that nothing takes; what follows an unknown flag is probably its value."""
    names = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    if names:
        return join_problems([f"unknown flag {name}{near_misses(name, labels)}" for name in names])
    unexpected = " ".join(arguments)
    return f"unexpected {unexpected!r}: a flag takes one value, and a list is written with commas: a,b"


def _usage(field: ConfigField) -> str:
    if field.positional and any(is_list(kind) for kind in field.kinds):
        return f"{field.label}…"
    return field.label if field.positional else f"{field.label} {_metavar(field)}"


def _written(field: ConfigField) -> str:
    if field.is_switch:
        return field.label if not field.default else field.label.replace("--", "--no-", 1)
    return _usage(field)


def _metavar(field: ConfigField) -> str:
    kind = field.kinds[0]
    if choices(kind):
        return "|".join(map(str, choices(kind)))
    if any(is_list(kind) for kind in field.kinds):
        return "A,B"
    if is_mapping(kind):
        return "NAME=X,…"
    return {int: "N", float: "X"}.get(kind, "TEXT" if kind is str else "PATH")


def _explained(field: ConfigField) -> str:
    if field.required or field.is_switch or field.default in (None, (), {}, ""):
        return field.documentation
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple | list) else field.default
    return f"{field.documentation} [{default}]"


def _entry(written: str, explained: str) -> str:
    indent = " " * HELP_COLUMN
    lines = textwrap.wrap(explained, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    head = f"  {written}"
    if len(head) > HELP_COLUMN - 2:
        return "\n".join([head, *lines])
    return "\n".join([head + lines[0][len(head) :], *lines[1:]])
