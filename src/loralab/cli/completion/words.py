"""The words of every command line: verbs, their flags, what the flags take; from the configurations of the verbs."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loralab.cli.fields import ConfigField, choices, config_fields
from loralab.cli.help import RESERVED, RESERVED_HELP
from loralab.cli.verb import Verb

NAMES = {
    "model": ("smollm2-135m", "minilm-l6"),
    "task": (
        *("docstrings", "jsonl", "text", "images", "e2e", "webnlg", "dart", "wikisql", "samsum"),
        *(f"glue/{name}" for name in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")),
    ),
    "device": ("auto", "cpu", "cuda", "mps", "xpu"),
    "targets": ("attention", "all-linear", "q", "k", "v", "o"),
}
"""Names that a flag takes whose tables are too heavy to load for a list of words; a test holds them to those."""
PATHS = ("PATH", "MODEL", "FILE")
"""What stands for something that may be a file or a folder."""


@dataclass(frozen=True)
class Flag:
    """A flag, or a word that is known by its place: what it means and what its value may be."""

    names: tuple[str, ...]
    about: str
    stands_for: str = ""
    """What its value is called; empty for a switch, which has none."""
    values: tuple[str, ...] = ()
    """Values that are known by name."""
    files: bool = False
    """Whether its value may be a path."""
    several: bool = False
    """Whether it takes several values with commas."""


@dataclass(frozen=True)
class Command:
    """A verb, or one of a group of them: `("analyse", "rank")`."""

    words: tuple[str, ...]
    about: str
    flags: tuple[Flag, ...]
    places: tuple[Flag, ...]
    """What it takes without a flag, in order."""

    @property
    def name(self) -> str:
        """As it is typed."""
        return " ".join(self.words)


def commands(modules: Mapping[tuple[str, ...], str], about: Mapping[tuple[str, ...], str]) -> Iterator[Command]:
    """Every verb by its words, from the module that holds it."""
    for words, module in modules.items():
        verb: Verb[Any] = importlib.import_module(module).VERB
        fields = config_fields(verb.config)
        flags = (*map(_flag, fields), *(_reserved(name, verb) for name in RESERVED))
        yield Command(words, about[words], flags, tuple(_flag(field) for field in fields if field.positional))


def _flag(field: ConfigField) -> Flag:
    if field.is_switch:
        return Flag((*field.flags, *(f"--no-{flag[2:]}" for flag in field.flags)), _brief(field.documentation))
    named = [str(choice) for kind in field.kinds for choice in choices(kind)]
    return Flag(
        field.flags,
        _brief(field.documentation),
        field.stands_for,
        tuple(named) or field.names or NAMES.get(field.key, ()),
        field.stands_for in PATHS,
        field.takes_several,
    )


def _reserved(name: str, verb: Verb[Any]) -> Flag:
    return Flag((f"--{name}",), _brief(RESERVED_HELP[name]), RESERVED[name], files=RESERVED[name] in PATHS)


def _brief(documentation: str) -> str:
    """The first sentence, or as much of it as a line has room for."""
    return documentation.partition(". ")[0].removesuffix(".").partition(": ")[0]
