"""Sets of (subject, relation, object) triples -> a text about them: what WebNLG and DART have in common.

The prompt is that of the LoRA authors' code, `subject : relation : object | subject : …`, with entities as they
stand in the data (WebNLG's have underscores, and quotes around literals), and ` ->` where they put an end-of-text
token. It knows nothing of files.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loralab.errors import DataError
from loralab.tasks.example import Example
from loralab.tasks.grouping import one_per_input

CUE = " ->"
"""Between the triples and the text, which follows after a space."""

METRICS = ("bleu", "meteor", "ter")

WORDLESS = "texts without a word are left out (of the official sets, DART's test set has one)"

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Text:
    """A text about the triples, and what is noted beside it."""

    content: str
    comment: str = ""


@dataclass(frozen=True)
class Entry:
    """A set of triples with its texts."""

    place: str
    """Where it stands, for errors: the file and the entry's number."""
    triples: tuple[Triple, ...]
    texts: tuple[Text, ...]
    category: str = ""


PartOf = Callable[[Entry], str]
"""The part of the split that an entry belongs to, as `Example.part`."""


def parse_triple(place: str, text: str) -> Triple:
    """A triple in WebNLG's spelling, `subject | relation | object`. Raises `DataError` for any other."""
    parts = [part.strip() for part in text.split("|")]
    if len(parts) != 3:
        raise DataError(f"{place}: the triple {text!r} has {len(parts)} parts, expected subject | relation | object")
    return parts[0], parts[1], parts[2]


def linearise(triples: Iterable[Triple]) -> str:
    """The triples in their order, as the prompt has them."""
    return " | ".join(" : ".join(triple) for triple in triples)


def single_texts(entries: Iterable[Entry]) -> tuple[Example, ...]:
    """One example per text: what is trained on."""
    return tuple(_example(entry, (text,), "") for entry in entries for text in entry.texts)


def grouped_texts(entries: Iterable[Entry], part_of: PartOf = lambda entry: "") -> tuple[Example, ...]:
    """One example per unique set of triples, with all its texts. Raises `DataError` for an entry without a text."""
    return one_per_input(_example(entry, entry.texts, part_of(entry)) for entry in entries)


def _example(entry: Entry, texts: tuple[Text, ...], part: str) -> Example:
    if not texts:
        raise DataError(f"{entry.place}: there is no text to compare with; evaluation needs at least one")
    references = tuple(text.content for text in texts)
    return Example(linearise(entry.triples) + CUE, " " + references[0], references, part)
