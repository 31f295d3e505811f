"""DART: triples from tables, WebNLG and E2E -> a text about them (Nan et al. 2021), version 1.1.1.

Read from the official files, JSON or (the test set) WebNLG's XML, also inside its .tar.xz, which is read without
unpacking it. Relations are lower-cased, as the LoRA authors do. Every split but `train` has one example per unique
set of triples, with the texts of all its entries: 4159 in the test set, whose official reference files have a line
for each of its 5097 entries instead.
"""

import lzma
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from loralab.errors import DataError
from loralab.metrics.suites import score_tokenized_triples, score_triples
from loralab.tasks.example import Example
from loralab.tasks.hub import HubSet
from loralab.tasks.official import official_task
from loralab.tasks.readers.lines import Line, read_lines
from loralab.tasks.readers.unpacked import unpacked
from loralab.tasks.task import Task
from loralab.tasks.triples import METRICS, WORDLESS, Entry, Text, Triple, grouped_texts, parse_entries, single_texts

STEM = "dart-v1.1.1-full"
FILES = {
    "train": [f"{STEM}-train.json", f"{STEM}-train.xml"],
    "validation": [f"{STEM}-dev.json", f"{STEM}-dev.xml"],
    "test": [f"{STEM}-test.xml", f"{STEM}-test.tar.xz", f"{STEM}-test.json"],
}
"""The names that each split's file may have."""
XZ = b"\xfd7zXZ\x00"
"""How a file compressed by xz begins."""

HUB = HubSet(
    "dart",
    "Yale-LILY/dart",
    f"{STEM}-train.json, {STEM}-dev.json and {STEM}-test.xml, of data/v1.1.1 at https://github.com/Yale-LILY/dart",
)


def open_dart(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task, from a folder with the official files, from one of them, or from the Hub without either.

    Raises `NotFoundError` for a path that is not there or a folder with none of the files, `SpecError` for labels.
    """
    read, scores = (_from_file, _from_hub), {"score_texts": score_triples, "score_aligned": score_tokenized_triples}
    return official_task("dart", data, labels, FILES, read, METRICS, notes=(WORDLESS,), **scores)


def read_entries(path: Path) -> list[Entry]:
    """The entries of an official file, which its first bytes say how to read.

    Raises `DataError` with the file, and the line or the entry's number, for content that is not DART's.
    """
    raw = path.read_bytes()
    if raw.startswith(XZ):
        return parse_entries(*_packed_xml(path, raw))
    if raw.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return parse_entries(path, raw)
    return [_entry(line) for line in read_lines(path)]


def _examples(split: str, entries: Iterable[Entry]) -> tuple[Example, ...]:
    lowered = [replace(entry, triples=tuple((a, b.lower(), c) for a, b, c in entry.triples)) for entry in entries]
    return single_texts(lowered) if split == "train" else grouped_texts(lowered)


def _from_file(split: str, path: Path) -> tuple[Example, ...]:
    return _examples(split, read_entries(path))


def _packed_xml(path: Path, raw: bytes) -> tuple[Path, bytes]:
    """The one XML file of an archive, under its name there."""
    try:
        with tarfile.open(fileobj=BytesIO(raw), mode="r:xz") as archive:
            files = {member.name: member for member in archive if member.isfile() and member.name.endswith(".xml")}
            if len(files) != 1:
                raise DataError(f"{path} holds {len(files)} XML files, expected one; give DART's own archive")
            ((name, member),) = files.items()
            content = archive.extractfile(member)
            assert content is not None, "a plain file has content"
            return path / name, unpacked(path, content, len(raw))
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path} is not a whole .tar.xz archive ({error}); download it again") from error


def _entry(line: Line) -> Entry:
    triples, annotations = line.value("tripleset"), line.value("annotations")
    if not isinstance(triples, list) or not triples or not isinstance(annotations, list):
        raise line.error("tripleset and annotations must be lists, and the first not an empty one")
    texts = (_text(line, annotation) for annotation in annotations)
    return Entry(
        f"{line.path}, {line.unit} {line.number}",
        tuple(_triple(line, triple) for triple in triples),
        tuple(Text(text) for text in texts if text),
    )


def _triple(line: Line, triple: Any) -> Triple:
    if not isinstance(triple, list) or len(triple) != 3 or not all(isinstance(part, str) for part in triple):
        raise line.error(f"a triple must be three strings, found {triple!r:.80}")
    subject, relation, obj = (part.strip() for part in triple)
    return subject, relation, obj


def _text(line: Line, annotation: Any) -> str:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("text"), str):
        raise line.error(f"an annotation must be an object with a text, found {annotation!r:.80}")
    return str(annotation["text"]).strip()


def _from_hub(split: str) -> tuple[Example, ...]:
    return _examples(split, [_entry(hub_line(number, row)) for number, row in enumerate(HUB.rows(split), start=1)])


def hub_line(number: int, row: dict[str, Any]) -> Line:
    """The Hub has the annotations as columns; here they are objects again, as in the official file."""
    line = Line(Path(HUB.repository), number, row, "row")
    annotations = line.value("annotations")
    texts = annotations.get("text") if isinstance(annotations, dict) else None
    if not isinstance(texts, list):
        raise line.error(f"annotations must be columns with text, found {annotations!r:.80}")
    return Line(line.path, number, row | {"annotations": [{"text": text} for text in texts]}, "row")
