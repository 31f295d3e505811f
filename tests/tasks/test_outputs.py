from pathlib import Path

import pytest

from loralab.errors import DataError, NotFoundError
from loralab.tasks.example import Example
from loralab.tasks.outputs import LINES, read_text, text_lines

TWO = [Example("a", " b"), Example("c", " d")]


@pytest.mark.parametrize("content", [b"one\ntwo", b"one\ntwo\n", b"\xef\xbb\xbfone\r\ntwo\r\n", b" one\t\n two \n"])
def test_one_output_a_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").write_bytes(content)
    assert LINES.read(tmp_path / "out", TWO) == ["one", "two"]


def test_a_blank_line_is_an_empty_output(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("one\n\n")
    assert LINES.read(tmp_path / "out", TWO) == ["one", ""]


def test_only_line_feeds_part_lines() -> None:
    assert text_lines("a\u2028b\x0cc\nd") == ["a\u2028b\x0cc", "d"]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "out").write_text(LINES.render(TWO, ["line\nbreak", "£ é"]), encoding="utf-8")
    assert LINES.read(tmp_path / "out", TWO) == ["line break", "£ é"]


def test_wrong_counts_files_and_codings(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("one\n")
    with pytest.raises(DataError, match="has 1 lines, but there are 2 unique inputs"):
        LINES.read(tmp_path / "out", TWO)
    with pytest.raises(NotFoundError, match="there is no file"):
        read_text(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_text(tmp_path / "latin")
