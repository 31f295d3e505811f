"""Texts and rows of another length: short examples laid into long rows, so that hardly a place of a row is empty, and
documents that are longer than a row cut into rows.

Packing is best fit, longest first: every example goes into the fullest row that has room for it, else begins a row.
Examples of one length are in an order drawn by the seed, and so is what shares a row.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.encoded import Encoded, EncodedRow


def windows(encoded: Encoded, max_length: int) -> list[Encoded]:
    """The rows of a document, each of at most `max_length` tokens, at least 2; one that fits as it is. They overlap by
    one token, to go on from, so that every token is a target exactly once:

        w x y z        max_length 3:      w x y | y z
    """
    ids, labels = encoded.input_ids, encoded.labels
    assert isinstance(labels, list)
    if len(ids) <= max_length:
        return [encoded]
    starts = range(0, len(ids) - 1, max_length - 1)
    return [
        replace(
            encoded,
            input_ids=ids[start : start + max_length],
            labels=[IGNORED, *labels[start + 1 : start + max_length]],
        )
        for start in starts
    ]


def cut_into_windows(encoded: Sequence[Encoded], max_length: int) -> tuple[list[Encoded], tuple[str, ...]]:
    """The rows of all documents in order, and a sentence on those that are several."""
    rows = [window for each in encoded for window in windows(each, max_length)]
    long = sum(len(each.input_ids) > max_length for each in encoded)
    note = (
        f"{long} of {len(encoded)} documents are longer than {max_length} tokens: {len(rows)} rows in all, each begun "
        "with the last token of the one before it"
    )
    return rows, (note,) if long else ()


@dataclass(frozen=True)
class Packing:
    """Rows, and how full they are."""

    rows: tuple[EncodedRow, ...]
    length: int
    """The tokens that a row has room for."""

    @property
    def full(self) -> float:
        """The share of all places that hold a token."""
        return sum(row.tokens for row in self.rows) / (len(self.rows) * self.length)

    def note(self, batch_size: int) -> str:
        """A sentence for the log and the record."""
        examples = sum(len(row.examples) for row in self.rows)
        each, rows = batch_size * examples / len(self.rows), len(self.rows)
        return (
            f"packing: {examples:,} examples in {rows:,} rows of {self.length} tokens, {self.full:.1%} full; a "
            f"batch is {batch_size} rows, about {each:,.0f} examples"
        )


def pack(encoded: Sequence[Encoded], length: int, seed: int) -> Packing:
    """Every example in one row, each of at most `length` tokens; the examples must not be longer."""
    order = list(range(len(encoded)))
    Random(f"packing/{seed}").shuffle(order)
    order.sort(key=lambda place: -encoded[place].tokens)
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    for place in order:
        needed = encoded[place].tokens
        at = bisect_left(rooms, needed)
        room = rooms[at] if at < len(rooms) else length
        row = _taken(with_room, rooms, room) if at < len(rooms) else _begun(rows)
        rows[row].append(place)
        _given_back(with_room, rooms, room - needed, row)
    packed = tuple(EncodedRow(tuple(encoded[place] for place in row), tuple(row)) for row in rows)
    return Packing(packed, length)


def _begun(rows: list[list[int]]) -> int:
    rows.append([])
    return len(rows) - 1


def _taken(with_room: dict[int, list[int]], rooms: list[int], room: int) -> int:
    """A row that has this much room."""
    row = with_room[room].pop()
    if not with_room[room]:
        rooms.remove(room)
    return row


def _given_back(with_room: dict[int, list[int]], rooms: list[int], room: int, row: int) -> None:
    if room:
        if not with_room[room]:
            insort(rooms, room)
        with_room[room].append(row)
