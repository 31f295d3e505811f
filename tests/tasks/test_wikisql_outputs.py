from pathlib import Path

import pytest

from loralab.errors import DataError
from loralab.tasks.example import Example
from loralab.tasks.wikisql import WIKISQL_OUTPUTS, read_outputs

EXAMPLES = [Example("a", "b"), Example("c", "d")]


@pytest.mark.parametrize("content", ["x\ny", "x\ny\n\n", "x\r\n y \r\n\r\n\r\n"])
def test_blank_lines_at_the_end_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "o").write_text(content, newline="")
    assert read_outputs(tmp_path / "o", EXAMPLES) == ["x", "y"]


def test_a_blank_line_may_be_an_output(tmp_path: Path) -> None:
    (tmp_path / "o").write_text("\n\n")
    assert read_outputs(tmp_path / "o", EXAMPLES) == ["", ""]


@pytest.mark.parametrize("content", ["x\n", "x\ny\nz\n", "\n\nx\n"])
def test_too_few_or_many(tmp_path: Path, content: str) -> None:
    (tmp_path / "o").write_text(content)
    with pytest.raises(DataError, match="lines, but there are 2 questions"):
        read_outputs(tmp_path / "o", EXAMPLES)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "o").write_text(WIKISQL_OUTPUTS.render(EXAMPLES, ["SELECT\n1", ""]))
    assert WIKISQL_OUTPUTS.read(tmp_path / "o", EXAMPLES) == ["SELECT 1", ""]
