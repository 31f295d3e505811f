"""Answers as one JSON line and as lines for people."""

import json
from pathlib import Path

import pytest

from loralab.cli.showing import as_json, readable, readable_bytes, show_answer


def test_json_is_one_line_of_plain_values() -> None:
    line = as_json({"out": Path("a"), "rows": ({"x": 1.5},), "text": "é\n", "none": None, "yes": True})
    assert "\n" not in line
    assert json.loads(line) == {"out": "a", "rows": [{"x": 1.5}], "text": "é\n", "none": None, "yes": True}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_say_is_null(number: float) -> None:
    assert json.loads(as_json({"loss": number})) == {"loss": None}


def test_an_object_of_ours_is_a_bug() -> None:
    with pytest.raises(TypeError, match="object"):
        as_json({"thing": object()})


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    show_answer({"task": "docstrings", "metrics": {"rouge_l": 30.1234}, "steps": 80000})
    assert capsys.readouterr().out.splitlines() == [
        "task             docstrings",
        "metrics.rouge_l  30.12",
        "steps            80,000",
    ]


def test_numbers_for_people() -> None:
    assert readable(0.000123456) == "0.0001235"
    assert readable(None) == "-"
    assert readable_bytes(999) == "999 bytes"
    assert readable_bytes(489_000) == "489.0 kB"
    assert readable_bytes(269_000_000) == "269.0 MB"
