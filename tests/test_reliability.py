"""docs/reliability.md: every problem has tests that are there, and what it says of PEFT was seen."""

import json
import re

import pytest
from benchmarks.peer_faults import measured
from benchmarks.soak import FLAT

import compatibility
from pages import DOCS, rows, section

PAGE = (DOCS / "reliability.md").read_text(encoding="utf-8")
RECORD = json.loads((DOCS / "results" / "peer-faults.json").read_text(encoding="utf-8"))
REPORTED, FOUND = rows(PAGE.partition("## Found since")[0]), rows(section(PAGE, "Found since"))
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


def test_the_versions_are_those_that_were_tried_and_all_passed() -> None:
    tried = json.loads((DOCS / "results" / "compatibility.json").read_text(encoding="utf-8"))
    assert not [name for name, each in tried.items() if each["failed"] or each["ended"]]
    table = [
        [name.partition(",")[0], each["version"], f"{each['passed']:,}", beside(each["beside"])]
        for name, each in tried.items()
    ]
    assert rows(section(PAGE, "Versions")) == sorted(table, key=lambda row: (row[0], version_key(row[1])))
    assert {name.partition(",")[0] for name in tried} == set(compatibility.MORE)
    for name, each in tried.items():
        package, _, which = name.partition(", ")
        assert which == "newest" or compatibility.wanted(package, which) == f"{package}=={each['version']}"


def beside(others: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in others.items()) or "–"


def version_key(number: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", number)]


def test_the_figures_of_the_soak_are_those_of_its_record() -> None:
    soak = json.loads((DOCS / "results" / "soak.json").read_text(encoding="utf-8"))
    assert (soak["seconds"], soak["clients"], soak["dtype"], soak["wrong_count"]) == (300, 32, "float32", 0)
    assert soak["memory_ratio"] <= FLAT
    told = " ".join(section(PAGE, "A served fleet under load").split())
    for said in (
        f"a load of {soak['load']:.0f} by others: {soak['counts']['answered']:,} answers, none of them wrong or lost",
        f"a median of {soak['p50_seconds']:.1f} s and {soak['p95_seconds']:.1f} s at the 95th percentile",
        f"{soak['prefix_tokens_reused']:,.0f} tokens of beginnings",
        f"memory at the end {soak['memory_ratio']:.3f} times that after warm-up",
    ):
        assert said in told


def test_hostile_inputs_are_as_many_as_it_says() -> None:
    long_form = r"@pytest\.mark\.faults\n@seeded\n@cases\((\d+)\)"
    files = (DOCS.parent / "tests" / "faults").glob("test_*.py")
    found = sum(int(number) for file in files for number in re.findall(long_form, file.read_text(encoding="utf-8")))
    assert found >= 10_000
    assert f"{found:,} hostile inputs by hypothesis" in " ".join(PAGE.split())


@pytest.mark.slow
def test_peft_still_does_it() -> None:
    found = {name: each["does"] for name, each in measured().items()}
    assert found == {name: each["does"] for name, each in RECORD["cases"].items()}
