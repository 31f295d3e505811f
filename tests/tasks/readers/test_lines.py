from pathlib import Path

import pytest

from loralab.errors import DataError, NotFoundError
from loralab.tasks.readers.lines import read_lines


def write(folder: Path, content: bytes) -> Path:
    path = folder / "data.jsonl"
    path.write_bytes(content)
    return path


def test_mark_line_ends_and_blank_end_are_tolerated(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\n\n \n')
    assert [(line.number, line.content) for line in read_lines(path)] == [(1, {"a": 1}), (2, {"a": 2})]


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": "x\u2028y\x85z"}\n'.encode())
    assert len(read_lines(path)) == 1


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
        (b'{"a": 1}\n\n{"a": 2}', "line 2: blank"),
        (b'1\n[{"a": 1}]', "line 1: a int, not an object"),
        (b'{"a": 1}\n[1]', "line 2: a list, not an object"),
        (b'{"a": NaN}', "line 1: not JSON .NaN"),
        (b'{"a": 1, "a": 2}', "line 1: .*the key a stands twice"),
        (b'{"a": "\xff"}', "line 1: not UTF-8"),
        (b'{"a":' * 100_000, "line 1: not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "an empty list"),
        (b'[{"a": 1}, 2]', "element 2: a int, not an object"),
        (b'[\n{"a": 1},\n{"a": ', "line 3: not JSON"),
        (b'[{"a": 1}\n{"a": 1}]', "line 2: not JSON"),
        (b'[{"a": 1}]\n{"a": 1}', "line 2: not JSON"),
        (b'[{"a": 1, "a": 1}]', "the key a stands twice"),
        (b'[\n{"a": "\xff"}]', "line 2: not UTF-8"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n\n", "is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_lines(write(tmp_path, content))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.jsonl does not exist"):
        read_lines(tmp_path / "none.jsonl")


def test_one_list_of_objects_is_read_with_its_elements_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf\n[\n  {"a": 1},\n  {"a": [2]}\n]\n\n')
    lines = read_lines(path)
    assert [line.content for line in lines] == [{"a": 1}, {"a": [2]}]
    with pytest.raises(DataError, match=r"data\.jsonl, element 2: a is a list"):
        lines[1].text("a")
    with pytest.raises(DataError, match="element 1: there is no b; the keys are a"):
        lines[0].value("b")
