from pathlib import Path

import pytest

from loralab.errors import DataError
from loralab.tasks.e2e import open_e2e, read_outputs
from loralab.tasks.example import Example

EXAMPLES = [Example("name[A], area[x] ->", " A."), Example("name[B] ->", " B.")]


def test_the_published_systems_outputs_are_read(shared_data: Path) -> None:
    examples = open_e2e(str(shared_data / "e2e")).examples("test")
    outputs = read_outputs(shared_data / "metrics" / "e2e" / "tr2.tsv", examples)
    assert len(outputs) == 630
    assert outputs[0] == "In city centre is a coffee shop called Blue Spice."


def test_outputs_are_found_by_their_meaning_in_any_order(tmp_path: Path) -> None:
    text = '\ufeffMR\toutput\n"name[B]"\t"B costs Â£5, said ""X""."\n"name[A], area[x]"\tA cafÃ©.  \n'
    (tmp_path / "out.tsv").write_text(text, encoding="utf-8")
    assert read_outputs(tmp_path / "out.tsv", EXAMPLES) == ["A café.", 'B costs £5, said "X".']


@pytest.mark.parametrize(
    "rows, problem",
    [
        ("name[B]\tB\n", r"1 inputs have no output .*no output for 'name\[A\], area\[x\]'"),
        ("name[B]\tB\nname[B]\tB\n", r"line 3: a second output for 'name\[B\]'"),
        ("name[B]\tB\tb\n", "line 2: 3 cells"),
    ],
)
def test_a_broken_file(tmp_path: Path, rows: str, problem: str) -> None:
    (tmp_path / "out.tsv").write_text("MR\toutput\n" + rows)
    with pytest.raises(DataError, match=problem):
        read_outputs(tmp_path / "out.tsv", EXAMPLES)
