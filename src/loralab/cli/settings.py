"""A verb's configuration: its defaults, then a TOML file, then the flags, which win.

Everything that is wrong is collected and said at once, in one SpecError.
"""

import tomllib
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from loralab.cli.fields import ConfigField, config_fields
from loralab.cli.values import read_value
from loralab.errors import NotFoundError, SpecError

Config = TypeVar("Config")


def read_toml(path: Path) -> dict[str, Any]:
    """The keys and values of a TOML file. Raises NotFoundError, or SpecError with the line that is wrong."""
    if not path.is_file():
        raise NotFoundError(f"--config: no such file: {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"--config {path}: not a TOML file: {error}") from error


def build_config(config: type[Config], flags: Mapping[str, Any], file: Mapping[str, Any], source: str) -> Config:
    """The dataclass made of `flags` over `file` (which came from `source`) over the defaults.

    The keys of `flags` are field names; those of `file` may be written with dashes or underscores. Raises
    SpecError naming every unknown key, unreadable value and missing required field.
    """
    fields = {field.name: field for field in config_fields(config)}
    in_file = {key.replace("-", "_"): value for key, value in file.items()}
    problems = _unknown_keys(file, [field.key for field in fields.values()], source)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in flags:
            _read_into(values, problems, field, flags[name], field.label)
        elif field.key in in_file:
            _read_into(values, problems, field, in_file[field.key], f"{source}: {field.key}")
        elif field.required:
            problems.append(f"{field.label} is needed: {field.documentation}{_own_task(name, flags, in_file)}")
    if problems:
        raise SpecError(join_problems(problems))
    return config(**values)


def _own_task(name: str, flags: Mapping[str, Any], in_file: Mapping[str, Any]) -> str:
    """How to name the task of data that were given without one."""
    data = flags.get("data", in_file.get("data"))
    if name != "task" or data is None:
        return ""
    from loralab.tasks.own.route import flags_for

    return f" For {data}: {flags_for(data)}"


def near_misses(name: str, known: Iterable[str]) -> str:
    """` (did you mean X or Y?)`, or nothing when no known name resembles this one."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.7)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def join_problems(problems: list[str]) -> str:
    """One problem as it is; several as a numbered list."""
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems:" + "".join(f"\n  {number}. {each}" for number, each in enumerate(problems, 1))


def _unknown_keys(file: Mapping[str, Any], known: Collection[str], source: str) -> list[str]:
    problems, seen = [], set[str]()
    for key in file:
        name = key.replace("-", "_")
        if name not in known:
            problems.append(f"{source}: unknown key {key!r}{near_misses(name, known)}")
        elif name in seen:
            problems.append(f"{source}: {name} is given twice, with a dash and with an underscore")
        seen.add(name)
    return problems


def _read_into(values: dict[str, Any], problems: list[str], field: ConfigField, written: Any, label: str) -> None:
    try:
        values[field.name] = read_value(field, written)
    except ValueError as error:
        problems.append(f"{label}: {error}")
