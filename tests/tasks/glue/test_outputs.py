from pathlib import Path

import pytest

from loralab.errors import DataError
from loralab.tasks.example import LabelledExample
from loralab.tasks.glue.files import glue_outputs
from loralab.tasks.glue.table import ENTAILMENT

SENTENCES = [LabelledExample(text, None, None) for text in ("a", "b", "c")]
BINARY = glue_outputs({"0": "bad", "1": "good"}, {"test": "SST-2.tsv"})


def test_a_submission_is_what_the_server_takes_and_is_read_back(tmp_path: Path) -> None:
    text = BINARY.render(SENTENCES, ["good", "bad", "good"])
    assert text == "index\tprediction\n0\t1\n1\t0\n2\t1\n"
    (tmp_path / "SST-2.tsv").write_text(text)
    assert BINARY.read(tmp_path / "SST-2.tsv", SENTENCES) == ["good", "bad", "good"]


def test_words_are_written_as_words_and_values_stay_on_the_scale() -> None:
    assert glue_outputs(ENTAILMENT, {}).render(SENTENCES[:1], ["not_entailment"]).endswith("\n0\tnot_entailment\n")
    assert glue_outputs({}, {}).render(SENTENCES, ["-0.5", "2.34567", "7.0"]).split()[2:] == [
        "0",
        "0.000",
        "1",
        "2.346",
        "2",
        "5.000",
    ]


def test_lines_may_hold_the_files_words_or_the_names(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("1\nbad\n0")
    assert BINARY.read(tmp_path / "lines", SENTENCES) == ["good", "bad", "bad"]


@pytest.mark.parametrize(
    "rows, problem",
    [
        ("0\t1\n1\t0\n", "has 2 predictions; their index must run from 0 to 2"),
        ("0\t1\n0\t0\n2\t1\n", "line 3: a second prediction for the index 0"),
        ("0\t1\n1\n2\t1\n", "line 3: 1 cells, expected 2"),
    ],
)
def test_a_broken_submission(tmp_path: Path, rows: str, problem: str) -> None:
    (tmp_path / "x.tsv").write_text("index\tprediction\n" + rows)
    with pytest.raises(DataError, match=problem):
        BINARY.read(tmp_path / "x.tsv", SENTENCES)
