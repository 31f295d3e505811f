import pytest

from loralab.errors import DataError, SpecError
from loralab.tasks.example import Example
from loralab.tasks.task import Task

EXAMPLES = [Example("a", " b"), Example("c", " d")]
TASK = Task("toy", "generation", {"train": lambda: EXAMPLES, "test": list}, ("rouge_l",))


def test_a_split_is_read_when_asked_for_and_limited() -> None:
    assert TASK.examples("train") == EXAMPLES
    assert TASK.examples("train", 1) == EXAMPLES[:1]
    assert TASK.examples("train", 9) == EXAMPLES


def test_unknown_split_empty_split_and_bad_limit() -> None:
    with pytest.raises(SpecError, match="no split 'dev'; it has train, test"):
        TASK.examples("dev")
    with pytest.raises(DataError, match="'test' is empty"):
        TASK.examples("test")
    with pytest.raises(SpecError, match="limit 0"):
        TASK.examples("train", 0)


def test_it_is_said_in_short_without_reading_anything() -> None:
    unread = Task("toy", "generation", {"train": lambda: 1 / 0, "test": list}, ("rouge_l",))  # type: ignore[dict-item]
    assert repr(unread) == "Task('toy': generation, splits train, test)"
