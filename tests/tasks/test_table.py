import pytest

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.table import open_task


def test_an_unknown_task_lists_the_known() -> None:
    with pytest.raises(SpecError, match="'sonnets' is not known; choose ") as raised:
        open_task("sonnets")
    known = str(raised.value).partition("choose ")[2].split(", ")
    assert {"dart", "docstrings", "e2e", "glue/cola", "jsonl", "samsum", "webnlg", "wikisql"} <= set(known)


def test_labels_reach_the_reader(tmp_path) -> None:
    with pytest.raises(SpecError, match="labels"):
        open_task("docstrings", labels=["a", "b"])
    with pytest.raises(NotFoundError):
        open_task("jsonl", str(tmp_path / "none.jsonl"), labels=["a", "b"])
