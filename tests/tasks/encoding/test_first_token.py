from loralab.tasks.encoding.encode import Encoding
from loralab.tasks.encoding.encoded import Encoded
from loralab.tasks.encoding.first_token import begin_targets


def encoding(*labels: list[int], decoded: bool = True) -> Encoding:
    return Encoding([Encoded([5, 6], each, decoded=decoded) for each in labels], 1, ("a note",))


def targets(found: Encoding) -> list[object]:
    return [each.labels for each in found.encoded]


def test_each_target_begins_with_it_once() -> None:
    found = begin_targets(encoding([9, 1], [7, 9, 1]), 7, 8)
    assert targets(found) == [[7, 9, 1], [7, 9, 1]]
    assert (found.truncated, found.notes) == (1, ("a note",))


def test_what_is_too_long_by_it_is_cut_and_counted() -> None:
    found = begin_targets(encoding([8, 9, 1], [9, 1]), 7, 3)
    assert targets(found) == [[7, 8, 9], [7, 9, 1]]
    assert found.truncated == 2


def test_nothing_changes_without_such_a_token_or_a_decoder_of_its_own() -> None:
    free, joined = encoding([9, 1]), encoding([-100, 9], decoded=False)
    assert begin_targets(free, None, 8) is free
    assert targets(begin_targets(joined, 7, 8)) == targets(joined)
    labelled = Encoding([Encoded([5], 2)], 0, ())
    assert targets(begin_targets(labelled, 7, 8)) == [2]
