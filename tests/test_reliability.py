"""docs/reliability.md: every problem has tests that are there, and what it says of PEFT was seen."""

import json
import re

import pytest
from benchmarks.peer_faults import measured

from pages import DOCS, rows

PAGE = (DOCS / "reliability.md").read_text(encoding="utf-8")
RECORD = json.loads((DOCS / "results" / "peer-faults.json").read_text(encoding="utf-8"))
REPORTED, FOUND = (rows(part) for part in PAGE.split("## Found since"))
ROWS = {int(cells[0]): cells for cells in (*REPORTED, *FOUND)}


def seen(number: int) -> str:
    """What PEFT did in the cases of a problem, in their order."""
    return ", ".join(each["does"] for name, each in RECORD["cases"].items() if name.split()[0] == str(number)) or "–"


def test_the_25_problems_and_those_found_since_are_there() -> None:
    assert [int(cells[0]) for cells in REPORTED] == list(range(1, 26))
    assert list(ROWS) == list(range(1, len(ROWS) + 1))
    assert {int(name.split()[0]) for name in RECORD["cases"]} <= ROWS.keys()


@pytest.mark.parametrize("number", ROWS)
def test_its_tests_are_there_and_peft_does_what_is_said(number: int) -> None:
    *_, tests, peft = ROWS[number]
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    for file, name in named:
        assert f"def {name}(" in (DOCS.parent / file).read_text(encoding="utf-8"), f"{file} has no {name}"
    assert peft == seen(number)


def test_the_version_is_the_one_that_was_tried() -> None:
    version = RECORD["versions"].partition(",")[0]
    heads = [line for line in PAGE.splitlines() if line.startswith("| | problem")]
    assert len(heads) == 2
    assert all(line.endswith(f"| {version} |") for line in heads)


@pytest.mark.slow
def test_peft_still_does_it() -> None:
    found = {name: each["does"] for name, each in measured().items()}
    assert found == {name: each["does"] for name, each in RECORD["cases"].items()}
