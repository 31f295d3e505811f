"""What two examples must not share when one is trained on and the other measured: their inputs; and splits by them."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from loralab.errors import DataError
from loralab.tasks.example import AnyExample, Conversation, Document, Example, Examples, ImageExample, Preference
from loralab.tasks.own.pairs import input_of_pair
from loralab.tasks.own.shapes import RawLabelled
from loralab.tasks.splits import SPLITS

HELD_OUT_SHARE = 0.05

Rows = Sequence[AnyExample | RawLabelled]


def input_of(row: AnyExample | RawLabelled) -> str:
    """Everything but the answer, as one string to hash; of a text alone, which is all answer, the text."""
    if isinstance(row, Example):
        return row.prompt or f"\0{row.target}"
    if isinstance(row, Document):
        return f"\0{row.text}"
    if isinstance(row, Conversation):
        return "\0".join(message.content for message in row.messages[:-1])
    if isinstance(row, Preference):
        return input_of_pair(row)
    if isinstance(row, ImageExample):
        return row.digest
    return row.text_a if row.text_b is None else f"{row.text_a}\0{row.text_b}"


def split_rows(rows: Rows) -> dict[str, Rows]:
    """The three parts of a single file's rows, each in the file's order.

    Of a single document its last lines are the test, those before them the validation, where it is long enough.
    """
    if len(rows) == 1 and isinstance(rows[0], Document):
        return _split_document(rows[0])
    inputs = hashed_order(rows)
    held_out = max(1, round(len(inputs) * HELD_OUT_SHARE)) if len(inputs) >= 3 else 0
    place = dict.fromkeys(inputs, "train")
    place |= dict.fromkeys(inputs[:held_out], "test")
    place |= dict.fromkeys(inputs[held_out : 2 * held_out], "validation")
    return {name: [row for row in rows if place[input_of(row)] == name] for name in SPLITS}


def hashed_order(rows: Rows) -> list[str]:
    """The distinct inputs in an order that depends on nothing but each of them."""
    return sorted({input_of(row) for row in rows}, key=lambda text: sha256(text.encode()).digest())


def cut_document(document: Document, share: float) -> tuple[Examples, Examples]:
    """(the beginning, the last `share` of the characters from the start of a line on).

    Raises `DataError` where either would be blank.
    """
    lines = document.text.splitlines(keepends=True)
    place, left = len(lines), round(len(document.text) * share)
    while place > 1 and left > 0:
        place -= 1
        left -= len(lines[place])
    before, after = "".join(lines[:place]), "".join(lines[place:])
    if not before.strip() or not after.strip():
        raise DataError(
            f"one document of {len(lines)} line{'s' * (len(lines) > 1)}, of which no lines can be held out; give "
            "more documents, or data of their own for validation"
        )
    return (replace(document, text=before),), (replace(document, text=after),)


def _split_document(document: Document) -> dict[str, Rows]:
    try:
        rest, test = cut_document(document, HELD_OUT_SHARE)
        assert isinstance(rest[0], Document)
        train, validation = cut_document(rest[0], HELD_OUT_SHARE / (1 - HELD_OUT_SHARE))
    except DataError:
        return {"train": [document], "validation": [], "test": []}
    return {"train": train, "validation": validation, "test": test}
