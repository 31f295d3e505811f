"""WebNLG's XML, which DART's test set also has: entries of triples and texts. It knows nothing of splits.

Read by the standard library. What makes XML unsafe are declarations of entities, and these are refused before
anything is parsed; the parser itself fetches nothing.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from loralab.errors import DataError
from loralab.tasks.triples import Entry, Text, parse_triple

DECLARATION = re.compile(r"<!(DOCTYPE|ENTITY)")


def parse_entries(path: Path, raw: bytes) -> list[Entry]:
    """The entries of a file's content, in their order; texts without a word are left out.

    The category and the comments are as they stand. Raises `DataError` with file and line for content that is not
    XML, declares entities or holds no entry, and with the entry's number for one that is not as WebNLG's.
    """
    root = _parse(path, raw)
    entries = root.findall("entries/entry")
    if root.tag != "benchmark" or not entries:
        raise DataError(f"{path} holds no benchmark/entries/entry, but {root.tag}; give an XML file as WebNLG's")
    return [_entry(f"{path}, entry {number}", entry) for number, entry in enumerate(entries, start=1)]


def _parse(path: Path, raw: bytes) -> ElementTree.Element:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    if declared := DECLARATION.search(text):
        line = text.count("\n", 0, declared.start()) + 1
        raise DataError(f"{path}, line {line}: {declared[0]} is refused, it can name other files; remove it")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}, line {error.position[0]}: not XML ({error}); download the file again") from error


def _entry(place: str, entry: ElementTree.Element) -> Entry:
    place = f"{place} (eid {entry.get('eid', 'missing')})"
    sets = entry.findall("modifiedtripleset")
    triples = tuple(parse_triple(place, each.text or "") for each in entry.findall("modifiedtripleset/mtriple"))
    if len(sets) != 1 or not triples:
        raise DataError(f"{place}: {len(sets)} modified triple sets with {len(triples)} triples; one is needed")
    return Entry(place, triples, tuple(_texts(entry)), entry.get("category", ""))


def _texts(entry: ElementTree.Element) -> Iterator[Text]:
    for lex in entry.findall("lex"):
        if text := (lex.text or "").strip():
            yield Text(text, lex.get("comment", ""))
