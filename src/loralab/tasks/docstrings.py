"""The embedded task: a function of Python's standard library -> the first sentence of its docstring.

The pairs are read from the sources of the Python that is running; nothing is imported or downloaded. All
files of one top-level module or package fall into one split, so that a model is tested on modules it never
saw. Kept are functions that a sentence can describe: a body that does something, not too long, and a
docstring that no other function has.
"""

import ast
import os
import re
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

from loralab.errors import DataError, SpecError
from loralab.tasks.example import Example
from loralab.tasks.task import ROUGE, Task

NOISE = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "ensurepip"} | {
    "site-packages",
    "dist-packages",
    "lib-dynload",
}
"""Folders that are not the library: its tests, an editor, a converter's grammar, demonstrations, bundled pip, and what
was installed beside it."""

CODE_LENGTH = range(72, 1001)
"""Characters of source, without the docstring."""

SENTENCE_LENGTH = range(20, 121)
"""Characters of the docstring's first sentence."""

CUE = "\n\nDocstring:"
"""What a prompt ends with, so that a language model goes on with the docstring."""

VALIDATION_SHARE, TEST_SHARE = 0.07, 0.10
"""Shares of the modules, not of the pairs."""

SALT = "1"
"""Hashed with a module's name; chosen so that Python 3.11's largest modules fall into the training split."""

FEWEST = 100
"""Below this many pairs the installation has no sources worth the name."""

_SENTENCE = re.compile(r".+?(?<!e\.g)(?<!i\.e)(?<!etc)[.!?](?=\s+[A-Z]|\s*$)")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Pair:
    """A function's source without its docstring, and the docstring's first sentence."""

    module: str
    """The top-level module or package, e.g. "asyncio"."""
    code: str
    sentence: str

    def example(self) -> Example:
        return Example(self.code + CUE, " " + self.sentence)


def open_docstrings(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task. It has its data in itself: a path or labels are refused with `SpecError`."""
    if data is not None or labels is not None:
        raise SpecError("task docstrings reads the running Python's own library; leave out --data and labels")
    splits = {name: partial(_read_split, name) for name in ("train", "validation", "test")}
    note = "docstrings are split by top-level module: no module is in two splits"
    return Task("docstrings", "generation", splits, ROUGE, notes=(note,))


@cache
def read_pairs(library: Path | None = None) -> tuple[Pair, ...]:
    """All pairs, in the order of the files. The default is the running Python's library.

    Raises `DataError` where its sources are not installed.
    """
    root = library or Path(sysconfig.get_paths()["stdlib"])
    pairs: dict[str, Pair] = {}
    codes: set[str] = set()
    for path in _source_files(root):
        for pair in _pairs_of(path, path.relative_to(root).parts[0].removesuffix(".py")):
            if pair.sentence not in pairs and pair.code not in codes:
                pairs[pair.sentence] = pair
                codes.add(pair.code)
    if len(pairs) < FEWEST:
        raise DataError(
            f"task docstrings: only {len(pairs)} documented functions in {root}; "
            "install Python with its library's sources"
        )
    return tuple(pairs.values())


def split_of(module: str) -> str:
    """The split of a module: decided by a hash of its name alone, the same in every process."""
    place = int.from_bytes(sha256(f"{SALT}:{module}".encode()).digest()[:8]) / 2**64
    if place < TEST_SHARE:
        return "test"
    return "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"


def first_sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line; the whole paragraph if no full stop ends it."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    match = _SENTENCE.match(paragraph)
    return match.group() if match else paragraph


@cache
def _read_split(split: str) -> tuple[Example, ...]:
    """In the order of a hash, so that the first few are of many modules."""
    pairs = [pair for pair in read_pairs() if split_of(pair.module) == split]
    pairs.sort(key=lambda pair: sha256(pair.sentence.encode()).digest())
    return tuple(pair.example() for pair in pairs)


def _source_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - NOISE)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _pairs_of(path: Path, module: str) -> Iterator[Pair]:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise DataError(f"task docstrings: {path} is not Python: {error}; reinstall Python") from error
    lines = source.splitlines()
    for node in _functions(tree):
        if _does_something(node):
            sentence = first_sentence(ast.get_docstring(node) or "")
            code = textwrap.dedent("\n".join(_without_docstring(node, lines)))
            if len(code) in CODE_LENGTH and len(sentence) in SENTENCE_LENGTH and sentence.count(" ") >= 2:
                yield Pair(module, code, sentence)


def _functions(tree: ast.AST) -> Iterator[_Function]:
    """Every function in the order of the source. Only statements hold functions, so expressions are not walked."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, _Function):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _functions(child)


def _does_something(node: _Function) -> bool:
    """Whether there is more in the body than a docstring on lines of its own, pass, raise and constants."""
    first, *rest = node.body
    if ast.get_docstring(node, clean=False) is None or not rest:
        return False
    shares_a_line = first.lineno == node.lineno or first.end_lineno == rest[0].lineno
    idle = (ast.Pass, ast.Raise)
    empty = all(
        isinstance(each, idle) or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)) for each in rest
    )
    return not empty and not shares_a_line


def _without_docstring(node: _Function, lines: list[str]) -> list[str]:
    """The function's lines from `def` on, with its decorators left out as the docstring's lines are."""
    docstring = node.body[0]
    start, end = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
    return lines[node.lineno - 1 : start] + lines[end : node.end_lineno]
