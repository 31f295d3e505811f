"""A system's outputs, one for each unique input: in a file one a line, unless a task's scripts have another format."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loralab.errors import DataError, NotFoundError
from loralab.tasks.example import Example, Examples


@dataclass(frozen=True)
class OutputFormat:
    """How a task has a system's outputs in a file."""

    read: Callable[[Path, Examples], list[str]]
    """The outputs in the order of the examples, one for each. Raises `DataError` with file and line."""
    render: Callable[[Examples, Sequence[str]], str]
    """The content of such a file: the outputs of all examples, in their order."""
    file_names: Mapping[str, str] = field(default_factory=dict)
    """For splits that have one, what the official scripts call the file."""


def one_per_input(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The examples of the same prompt as one, with the references of all, in the order of first appearance.

    The target and the part are those of the first.
    """
    first: dict[str, Example] = {}
    references: dict[str, list[str]] = {}
    for example in examples:
        first.setdefault(example.prompt, example)
        references.setdefault(example.prompt, []).extend(example.answers())
    return tuple(replace(example, references=tuple(references[prompt])) for prompt, example in first.items())


def read_text(path: Path) -> str:
    """A UTF-8 file, perhaps with a byte-order mark. Raises `NotFoundError`, or `DataError` for another coding."""
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error


def text_lines(text: str) -> list[str]:
    """The lines of a text, LF or CRLF; a line break at the very end ends the last line and begins none."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def read_output_lines(path: Path, examples: Examples, asked: str = "unique inputs", ends: bool = False) -> list[str]:
    """One output a line, without surrounding space; a blank line is an empty output, unless with `ends` at the end.

    Raises `DataError` where there are more or fewer lines than examples.
    """
    lines = [line.strip() for line in text_lines(read_text(path))]
    while ends and len(lines) > len(examples) and not lines[-1]:
        lines.pop()
    if len(lines) != len(examples):
        raise DataError(
            f"{path} has {len(lines)} lines, but there are {len(examples)} {asked}; write "
            "one output a line, in their order"
        )
    return lines


def render_output_lines(examples: Examples, outputs: Sequence[str]) -> str:
    """One output a line; a line break within one becomes a space."""
    return "".join(" ".join(output.splitlines()) + "\n" for output in outputs)


LINES = OutputFormat(read_output_lines, render_output_lines)
