"""Pages of the documentation, taken apart: their sections, tables, fenced blocks and command lines."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loralab.cli.parser import parse_arguments
from loralab.cli.settings import build_config

DOCS = Path(__file__).resolve().parent.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def section(page: str, title: str) -> str:
    """What stands under a heading of the second level; empty where there is none."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def rows(text: str) -> list[list[str]]:
    """The cells of the first table, its two header lines left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> str:
    """What a cell has in backticks; empty where it has nothing there."""
    found = re.search(r"`([^`]*)`", cell)
    return found[1] if found else ""


def commands(page: str) -> Iterator[list[str]]:
    """The words of every `loralab …` line, continued lines joined, a number for each of a shell's variables."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("loralab "):
                yield [re.sub(r"\$\w+", "1", word) for word in shlex.split(line, comments=True)]


def configuration(words: list[str]) -> Any:
    """What a command line comes to, nothing of it run. Raises SpecError for flags that there are not."""
    verb, *arguments = words[1:]
    module = f"verbs.{verb}"
    if verb == "analyse":
        module, arguments = f"analyses.{arguments[0]}", arguments[1:]
    config = importlib.import_module(f"loralab.cli.{module}").VERB.config
    return build_config(config, parse_arguments(verb, config, arguments).flags, {}, "")


def broken_links(path: Path) -> list[str]:
    """Relative links of a page to files that are not there."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    return [target for target in targets if not (path.parent / target).exists()]
