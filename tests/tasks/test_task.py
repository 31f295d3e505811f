import pytest

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.task import open_task


def test_an_unknown_task_lists_the_known() -> None:
    with pytest.raises(SpecError, match="'sonnets' is not known; choose docstrings, e2e, jsonl"):
        open_task("sonnets")


def test_labels_reach_the_reader(tmp_path) -> None:
    with pytest.raises(SpecError, match="labels"):
        open_task("docstrings", labels=["a", "b"])
    with pytest.raises(NotFoundError):
        open_task("jsonl", str(tmp_path / "none.jsonl"), labels=["a", "b"])
