"""The page that `--help` prints, generated from a configuration dataclass: 80 columns, what is usually given first."""

import textwrap
from typing import Any

from loralab.cli.fields import FLAGS, ConfigField, choices, config_fields, is_list, is_mapping
from loralab.cli.showing import WIDTH
from loralab.cli.verb import Verb

HELP_COLUMN = 26
RESERVED = {"config": "FILE", "json": "", "help": "", "help-all": ""}
"""The flags of every verb, and what their value is."""
RESERVED_HELP = {
    "config": "Read flags from a TOML file with the same names, or from a run's run.json; flags given here win.",
    "json": "Print one JSON object as the last line of stdout.",
    "help": "Show this page.",
    "help-all": "Show every flag of the verb.",
}
LAST = ("adapter", "length and batches", "optimizer", "evaluation", "run")
"""Groups that come after a verb's own, in this order; behind them is what counts for single methods only."""

DATA = "data"
"""The title of what has no group, for a verb of many flags."""

Groups = dict[str, list[ConfigField]]


def help_page(program: str, summary: str, verb: Verb[Any], *, whole: bool = True) -> str:
    """The page of a verb: every flag, or those that are usually given and the names of the other groups."""
    fields = config_fields(verb.config)
    shown, others = _grouped(fields, verb.essentials), Groups()
    if verb.essentials and not whole:
        others = {title: shown.pop(title) for title in list(shown)[2:] if _waits(shown[title])}
    usage = " ".join([f"usage: {program}", *(_usage(field) for field in fields if field.required), "[flags]"])
    parts = [textwrap.fill(usage, WIDTH, subsequent_indent="  "), summary]
    parts += [_section(title, members) for title, members in shown.items() if members]
    if others:
        parts.append(_rest(others))
    names = [name for name in RESERVED if name != "help-all" or verb.essentials]
    entries = [_entry(f"--{name} {RESERVED[name]}".strip(), RESERVED_HELP[name]) for name in names]
    parts.append("\n".join(["every verb:", *entries]))
    parts.append(f"example:\n{textwrap.indent(verb.example, '  ')}")
    return "\n\n".join(parts) + "\n"


def metavar(field: ConfigField) -> str:
    """What stands for a field's value: its choices, or a word for its kind."""
    kind = field.kinds[0]
    if choices(kind):
        return "|".join(map(str, choices(kind)))
    if any(is_list(kind) for kind in field.kinds):
        return "A,B"
    if is_mapping(kind):
        return "NAME=X,…"
    return {int: "N", float: "X"}.get(kind, field.stands_for)


def _grouped(fields: tuple[ConfigField, ...], essentials: tuple[str, ...]) -> Groups:
    """Title → fields: what is required, what is usually given, a verb's own groups, then those of `LAST` and the
    groups of single methods.
    """
    required = [field for field in fields if field.required]
    usual = sorted(
        (field for field in fields if field.name in essentials and not field.required),
        key=lambda field: essentials.index(field.name),
    )
    groups: Groups = {}
    for field in fields:
        if field not in required and field not in usual:
            groups.setdefault(field.group, []).append(field)
    ordered = sorted(groups.items(), key=lambda named: _place(named[0], named[1][0]))
    return {"required": required, "usually given": usual} | {
        DATA if title == FLAGS and essentials else title: members for title, members in ordered
    }


def _waits(members: list[ConfigField]) -> bool:
    """Whether a group is for `--help-all` alone."""
    return all(field.only_with or field.group in (FLAGS, *LAST) for field in members)


def _place(title: str, one: ConfigField) -> int:
    if one.only_with:
        return len(LAST) + 1
    return LAST.index(title) + 1 if title in LAST else int(title != FLAGS) - 1


def _section(title: str, members: list[ConfigField]) -> str:
    return "\n".join([f"{title}:", *(_entry(_written(field), _explained(field)) for field in members)])


def _rest(others: Groups) -> str:
    """How many more flags there are, and what they are about."""
    titles = [title for title, members in others.items() if not members[0].only_with]
    about = ", ".join(titles) + (", and what only single methods have" if len(titles) < len(others) else "")
    line = f"{sum(map(len, others.values()))} flags: {about}. --help-all shows them."
    return "\n".join(["more:", *textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="  ")])


def _usage(field: ConfigField) -> str:
    if field.positional and any(is_list(kind) for kind in field.kinds):
        return f"{field.label}…"
    return field.label if field.positional else f"{field.label} {metavar(field)}"


def _written(field: ConfigField) -> str:
    if field.is_switch:
        return field.label if not field.default else field.label.replace("--", "--no-", 1)
    if field.has_a_switch:
        values = "|".join(str(choice) for kind in field.kinds for choice in choices(kind))
        return f"{field.label} [{values}]"
    return f"{_usage(field)}, {field.flags[-1]} {metavar(field)}" if field.positional else _usage(field)


def _explained(field: ConfigField) -> str:
    if field.required or bool in field.kinds or field.default in (None, (), {}, ""):
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
