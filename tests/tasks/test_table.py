from pathlib import Path

import pytest

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.table import open_task


def test_an_unknown_task_lists_the_known() -> None:
    with pytest.raises(SpecError, match="'sonnets' is not known; the tasks are ") as raised:
        open_task("sonnets")
    known = str(raised.value).partition("are ")[2].replace("and ", "").split(", ")
    assert {"dart", "docstrings", "e2e", "glue/cola", "jsonl", "samsum", "webnlg", "wikisql"} <= set(known)


@pytest.mark.parametrize(
    ("task", "data", "said"),
    [
        ("my.csv", None, "is no task's name but a path: give --task jsonl --data my.csv"),
        ("none.csv", None, "looks like one of a file: give --task jsonl --data none.csv"),
        ("texts", None, "give --task text --data texts"),
        ("csv", "my.csv", "give --task jsonl --data my.csv"),
        ("mine", "texts/a b.txt", "give --task text --data 'texts/a b.txt'"),
        ("glue/mprc", None, "did you mean glue/mrpc"),
    ],
)
def test_an_unknown_task_says_how_to_name_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, data: str | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for name in ("my.csv", "texts/a b.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(SpecError) as raised:
        open_task(task, data)
    assert said in str(raised.value)


def test_labels_reach_the_reader(tmp_path) -> None:
    with pytest.raises(SpecError, match="labels"):
        open_task("docstrings", labels=["a", "b"])
    with pytest.raises(NotFoundError):
        open_task("jsonl", str(tmp_path / "none.jsonl"), labels=["a", "b"])
