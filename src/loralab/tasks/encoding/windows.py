"""Documents longer than a row: cut into rows that overlap by one token, so that every token is a target exactly once.

w x y z        max_length 3:      w x y | y z        (the first token of a row is there to go on from)
"""

from collections.abc import Sequence
from dataclasses import replace

from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.encoded import Encoded


def windows(encoded: Encoded, max_length: int) -> list[Encoded]:
    """The rows of a document, each of at most `max_length` tokens, at least 2; one that fits as it is."""
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
