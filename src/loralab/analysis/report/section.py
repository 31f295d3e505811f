"""What a report shows of one result, before anything is written as HTML."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralab.analysis.report.reading import HOW_TO_READ
from loralab.errors import SpecError
from loralab.pictures.svg.drawing import Drawing

MOST_ROWS = 200
"""Of a table; the file has them all."""

Content = Mapping[str, Any]
"""Of a result's JSON."""


@dataclass(frozen=True)
class ResultTable:
    """Columns, and rows of numbers, words or None."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    left_out: int = 0

    @classmethod
    def of(cls, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> "ResultTable":
        """With at most `MOST_ROWS` of the rows."""
        return cls(title, columns, rows[:MOST_ROWS], max(len(rows) - MOST_ROWS, 0))


@dataclass(frozen=True)
class Section:
    """One result: what it is, how to read it, and what it found."""

    kind: str
    title: str
    folder: Path
    content: Content
    facts: Mapping[str, Any] = field(default_factory=dict)
    sentences: Sequence[str] = ()
    tables: Sequence[ResultTable] = ()
    drawings: Sequence[Drawing] = ()
    pictures: Sequence[Path] = ()
    """PNG files of what the JSON beside them cannot be drawn from."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The configuration, shown folded."""

    @property
    def how_to_read(self) -> str:
        """A sentence or two."""
        return HOW_TO_READ[self.kind]


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file; SpecError for a file that is no complete one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise SpecError(f"{file} is not complete JSON ({problem}); make the result again") from problem
    if not isinstance(content, dict):
        raise SpecError(f"{file} should hold one JSON object, and holds a {type(content).__name__}")
    return content
