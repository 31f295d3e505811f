"""Arguments of one verb sorted into flags, as its configuration dataclass names them.

Written on argparse rather than on tyro: tyro costs 0.2 s before any of our own code runs (the whole budget
of `--help` is 0.5 s), draws its own error boxes where we print one `error: …`, and splits lists at spaces
where we split at commas.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from loralab.cli.fields import ConfigField, config_fields, is_list
from loralab.cli.help import RESERVED
from loralab.cli.settings import join_problems, near_misses
from loralab.errors import SpecError


@dataclass(frozen=True)
class Arguments:
    """What was written after the verb: the text of each flag by field name, the file of `--config`, and the flags of
    every verb.
    """

    flags: dict[str, Any]
    config_file: str | None
    json: bool
    help: bool
    help_all: bool


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are SpecErrors."""

    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{message.replace('argument ', '', 1)} (see {self.prog} --help)")


def parse_arguments(program: str, config: type[Any], arguments: Sequence[str]) -> Arguments:
    """Sort the arguments into flags, whose values are not read yet. Raises SpecError for unknown flags."""
    fields = config_fields(config)
    parser = _parser(program, fields)
    flagged, placed = _split(arguments)
    known, left = parser.parse_known_args(flagged)
    values = vars(known)
    flags = {name: _joined(value) for name, value in values.items() if not name.startswith(":")}
    asks_help = values[":help"] or values[":help_all"]
    unknown = [] if asks_help else [argument.partition("=")[0] for argument in left if argument.startswith("-")]
    if unknown:  # what follows an unknown flag is probably its value
        raise SpecError(f"{_unknown(unknown, fields)} (see {program} --help)")
    unplaced = _place(fields, flags, [*left, *placed])
    if unplaced and not asks_help:
        raise SpecError(f"{_unexpected(unplaced, fields)} (see {program} --help)")
    return Arguments(flags, values[":config"], values[":json"], values[":help"], values[":help_all"])


def _parser(program: str, fields: Iterable[ConfigField]) -> _Parser:
    parser = _Parser(prog=program, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for field in fields:
        if field.name in RESERVED:
            raise TypeError(f"--{field.name} belongs to every verb: a field cannot have its name")
        if field.is_switch:
            parser.add_argument(*field.flags, dest=field.name, action=argparse.BooleanOptionalAction)
        elif field.has_a_switch:
            parser.add_argument(*field.flags, dest=field.name, nargs="?", const="true")
            off = [flag.replace("--", "--no-", 1) for flag in field.flags]
            parser.add_argument(*off, dest=field.name, action="store_const", const="false")
        else:
            action = "append" if field.takes_several else "store"
            parser.add_argument(*field.flags, dest=field.name, action=action)
    parser.add_argument("--config", dest=":config", default=None)
    parser.add_argument("--json", dest=":json", action="store_true", default=False)
    parser.add_argument("-h", "--help", dest=":help", action="store_true", default=False)
    parser.add_argument("--help-all", dest=":help_all", action="store_true", default=False)
    return parser


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what behind it, where nothing is a flag."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:end]), list(arguments[end + 1 :])


def _joined(value: Any) -> Any:
    """The texts of a flag that was given several times, as one text."""
    return ",".join(value) if isinstance(value, list) else value


def _place(fields: Iterable[ConfigField], flags: dict[str, Any], words: list[str]) -> list[str]:
    """Give words to the fields that are named by their place and by no flag, in order; returns those left over."""
    for field in fields:
        if not field.positional or field.name in flags or not words:
            continue
        if any(is_list(kind) for kind in field.kinds):
            flags[field.name], words = words, []
        else:
            flags[field.name], words = words[0], words[1:]
    return words


def _unknown(names: list[str], fields: Iterable[ConfigField]) -> str:
    """What to say of flags that nothing takes."""
    known = [*(flag for field in fields for flag in field.flags), *(f"--{name}" for name in RESERVED)]
    return join_problems([f"unknown flag {name}{near_misses(name, known)}" for name in names])


def _unexpected(words: list[str], fields: Sequence[ConfigField]) -> str:
    """What to say of words that are no flag's value."""
    if any(field.name == "adapter" and not field.positional for field in fields):
        return f"unexpected {' '.join(words)!r}: an adapter is named by --adapter, a list is written with commas: a,b"
    return f"unexpected {' '.join(words)!r}: a flag takes one value, and a list is written with commas: a,b"
