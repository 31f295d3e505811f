"""Sets of (subject, relation, object) triples -> a text about them: what WebNLG and DART have in common.

The prompt is that of the LoRA authors' code, `subject : relation : object | subject : …`, with entities as they
stand in the data (WebNLG's have underscores, and quotes around literals), and ` ->` where they put an end-of-text
token. WebNLG's XML, which DART's test set also has, is read by the standard library. What makes XML unsafe are
declarations of entities, and these are refused before anything is parsed; the parser itself fetches nothing.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from loralab.errors import DataError
from loralab.tasks.example import Example
from loralab.tasks.outputs import one_per_input
from loralab.tasks.readers.unpacked import MARK, decode_utf8

CUE = " ->"
"""Between the triples and the text, which follows after a space."""

METRICS = ("bleu", "meteor", "ter")

WORDLESS = "texts without a word are left out (of the official sets, DART's test set has one)"

DECLARATION = re.compile(r"<!(DOCTYPE|ENTITY)")

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
        raise DataError(
            f"{place}: the triple {text!r:.80} has {len(parts)} parts, expected subject | relation | object"
        )
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


def parse_entries(path: Path, raw: bytes) -> list[Entry]:
    """The entries of a file's content, in their order; texts without a word are left out.

    The category and the comments are as they stand. Raises `DataError` with file and line for content that is not
    XML, declares entities or holds no entry, and with the entry's number for one that is not as WebNLG's.
    """
    root = _xml_root(path, raw)
    entries = root.findall("entries/entry")
    if root.tag != "benchmark" or not entries:
        raise DataError(f"{path} holds no benchmark/entries/entry, but {root.tag}; give an XML file as WebNLG's")
    return [_xml_entry(f"{path}, entry {number}", entry) for number, entry in enumerate(entries, start=1)]


def _xml_root(path: Path, raw: bytes) -> ElementTree.Element:
    text = decode_utf8(str(path), raw.removeprefix(MARK))
    if declared := DECLARATION.search(text):
        line = text.count("\n", 0, declared.start()) + 1
        raise DataError(f"{path}, line {line}: {declared[0]} is refused, it can name other files; remove it")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}, line {error.position[0]}: not XML ({error}); download the file again") from error


def _xml_entry(place: str, entry: ElementTree.Element) -> Entry:
    place = f"{place} (eid {entry.get('eid', 'missing')})"
    sets = entry.findall("modifiedtripleset")
    triples = tuple(parse_triple(place, each.text or "") for each in entry.findall("modifiedtripleset/mtriple"))
    if len(sets) != 1 or not triples:
        raise DataError(f"{place}: {len(sets)} modified triple sets with {len(triples)} triples; one is needed")
    return Entry(place, triples, tuple(_xml_texts(entry)), entry.get("category", ""))


def _xml_texts(entry: ElementTree.Element) -> Iterator[Text]:
    for lex in entry.findall("lex"):
        if text := (lex.text or "").strip():
            yield Text(text, lex.get("comment", ""))
