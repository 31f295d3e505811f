"""How far a piece of work is, as a display is told it."""

import pytest

from loralab.progress import Display, Work, announced, shown_by, tracked


@pytest.fixture
def told() -> list[list[tuple[str, int, int]]]:
    return []


@pytest.fixture
def display(told: list[list[tuple[str, int, int]]]) -> Display:
    return lambda at_hand: told.append([(work.what, work.done, work.total) for work in at_hand])


def test_items_come_as_they_are_and_nothing_is_told_where_nobody_asked() -> None:
    assert list(tracked(range(3), "numbers")) == [0, 1, 2]


def test_each_item_is_told_and_the_end(display: Display, told: list[list[tuple[str, int, int]]]) -> None:
    with shown_by(display):
        assert list(tracked("ab", "letters")) == ["a", "b"]
    assert told == [[("letters", 0, 2)], [("letters", 1, 2)], [("letters", 2, 2)], []]


def test_work_within_work_is_told_with_it(display: Display, told: list[list[tuple[str, int, int]]]) -> None:
    with shown_by(display):
        for _ in tracked("ab", "letters"):
            list(tracked("12", "digits"))
    assert [("letters", 1, 2), ("digits", 1, 2)] in told
    assert told[-1] == []


def test_one_item_is_no_progress(display: Display, told: list[list[tuple[str, int, int]]]) -> None:
    with shown_by(display):
        assert list(tracked("a", "letters")) == ["a"]
    assert told == []


def test_an_error_leaves_no_work_behind(display: Display, told: list[list[tuple[str, int, int]]]) -> None:
    def fail() -> None:
        with shown_by(display):
            next(left)
            raise RuntimeError

    left = tracked("ab", "letters")
    with pytest.raises(RuntimeError):
        fail()
    with shown_by(display):
        list(tracked("12", "digits"))
    assert told[-2] == [("digits", 2, 2)]


def test_nobody_is_told_where_it_is_hidden(display: Display, told: list[list[tuple[str, int, int]]]) -> None:
    with shown_by(display), shown_by(None):
        list(tracked("ab", "letters"))
    assert told == []


def test_works_are_told_apart() -> None:
    assert Work("batches", 2) != Work("batches", 2)


def test_what_cannot_be_counted_is_told_at_its_beginning(
    display: Display, told: list[list[tuple[str, int, int]]]
) -> None:
    with shown_by(display), announced("a conversion"):
        assert told == [[("a conversion", 0, 1)]]
    assert told[-1] == []
    with announced("nobody hears"):
        pass
