"""WebNLG 2017: triples from DBpedia -> a text about them (Gardent et al. 2017).

Read from the challenge's XML files, the modified triple sets. Training takes the texts that are marked good, as
the LoRA authors do; evaluation takes every text as a reference, as the challenge's scripts do (in the test set all
are good). Every split but `train` has one example per unique set of triples: in the test set that is one per entry,
in the order of the official reference files. Test examples are `seen` or `unseen`, by whether their category is one
of the ten of the training set; the splits `test_seen` and `test_unseen` are those alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.metrics.suites import score_tokenized_triples, score_triples
from loralab.tasks.example import Example
from loralab.tasks.hub import HubSet
from loralab.tasks.official import WHOLE_FILE, refuse_labels
from loralab.tasks.task import Task
from loralab.tasks.triples import (
    METRICS,
    WORDLESS,
    Entry,
    Text,
    grouped_texts,
    parse_entries,
    parse_triple,
    single_texts,
)

SEEN = {
    *("Airport", "Astronaut", "Building", "City", "ComicsCharacter"),
    *("Food", "Monument", "SportsTeam", "University", "WrittenWork"),
}
"""The categories of the training set."""
PARTS = ("seen", "unseen")

GOOD = "good"
"""The mark of a text that its annotators found nothing wrong with."""
NOTE = f"training takes the texts marked {GOOD} (of the official 18102: 18025); evaluation takes all as references"

FOLDERS = {"train": "train", "validation": "dev", "test": "test"}
"""The folder of each split, with files in it or in 1triples … 7triples below it."""
TEST_FILE = "testdata_with_lex.xml"
"""The test set, all of it and with its texts; other files beside it have parts of it, or no texts."""

Files = tuple[Path, ...]

HUB = HubSet(
    "webnlg",
    "webnlg-challenge/web_nlg",
    f"the folders train and dev and the file {TEST_FILE}, of webnlg_challenge_2017 at "
    "https://gitlab.com/shimorina/webnlg-dataset",
    "webnlg_challenge_2017",
)
HUB_TESTS = ("", TEST_FILE.removesuffix(".xml"))
"""The Hub's test split is three files in one, with repeats; its rows say which they are of, other splits' do not."""

Read = Callable[[], Sequence[Example]]


def open_webnlg(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task, from the release's folder, that of a split, one file, or the Hub without either.

    Raises `NotFoundError` for a path that is not there or a folder without such files, `SpecError` for labels.
    """
    refuse_labels("webnlg", labels)
    splits: dict[str, Read]
    files_of_split = {} if data is None else webnlg_files(data)
    if data is None:
        splits = {split: cache(partial(_from_hub, split)) for split in FOLDERS}
    else:
        splits = {split: cache(partial(_from_files, split, files)) for split, files in files_of_split.items()}
    if test := splits.get("test"):
        splits |= {f"test_{part}": partial(_part, test, part) for part in PARTS}
    return Task(
        "webnlg",
        "generation",
        splits,
        METRICS,
        notes=(NOTE, WORDLESS),
        score_texts=score_triples,
        score_aligned=score_tokenized_triples,
        files=tuple(path for files in files_of_split.values() for path in files),
    )


def _from_files(split: str, files: Files) -> tuple[Example, ...]:
    return _examples(split, [entry for path in files for entry in parse_entries(path, path.read_bytes())])


def _examples(split: str, entries: Iterable[Entry]) -> tuple[Example, ...]:
    if split == "train":
        return single_texts(
            replace(entry, texts=tuple(text for text in entry.texts if text.comment == GOOD)) for entry in entries
        )
    if split == "validation":
        return grouped_texts(entries)
    return grouped_texts(entries, lambda entry: "seen" if entry.category in SEEN else "unseen")


def _part(read: Read, part: str) -> tuple[Example, ...]:
    return tuple(example for example in read() if example.part == part)


def _from_hub(split: str) -> tuple[Example, ...]:
    rows = enumerate(HUB.rows(FOLDERS[split]), start=1)
    return _examples(
        split, [hub_entry(number, row) for number, row in rows if (row.get("test_category") or "") in HUB_TESTS]
    )


def hub_entry(number: int, row: dict[str, Any]) -> Entry:
    """An entry from the Hub, which has the texts and their marks as columns."""
    place = f"{HUB.repository}, row {number}"
    try:
        triples = tuple(parse_triple(place, triple) for triple in row["modified_triple_sets"]["mtriple_set"][0])
        texts = zip(row["lex"]["text"], row["lex"]["comment"], strict=True)
        return Entry(place, triples, tuple(Text(*text) for text in texts), row["category"])
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{place}: not a row as expected ({error!r}); give the official files as --data") from error


def webnlg_files(data: str) -> dict[str, Files]:
    """split -> its files, in their order.

    A folder may be the release, as it is or in one more folder, or that of a split, whose files are then the split
    `WHOLE_FILE`, as is a single file. Raises `NotFoundError` where there is no such thing, `SpecError` where
    there are two.
    """
    path = Path(data)
    if path.is_file():
        return {WHOLE_FILE: (path,)}
    if not path.is_dir():
        raise NotFoundError(f"task webnlg: no folder {path}; give the folder with train, dev and {TEST_FILE} as --data")
    splits = _splits_below(path)
    if not splits and (own := _xml_in(path)):
        return {WHOLE_FILE: own}
    if not splits:
        raise NotFoundError(
            f"task webnlg: {path} holds neither train/1triples/*.xml, dev/1triples/*.xml nor {TEST_FILE}, and no XML "
            "files of its own; give the release's folder as --data"
        )
    return splits


def _splits_below(path: Path) -> dict[str, Files]:
    """The splits whose files are in the folder or in one of its folders."""
    places = [path, *sorted(each for each in path.iterdir() if each.is_dir())]
    candidates = {
        split: [*dict.fromkeys(files for place in places if (files := _files_of(split, place)))] for split in FOLDERS
    }
    for split, sets in candidates.items():
        if len(sets) > 1:
            first, second = sets[0][0].parent, sets[1][0].parent
            raise SpecError(f"task webnlg: two {split} sets in {path}, {first} and {second}; give the folder of one")
    return {split: sets[0] for split, sets in candidates.items() if sets}


def _files_of(split: str, place: Path) -> Files:
    folder = place / FOLDERS[split]
    if split == "test":
        for path in (place / TEST_FILE, folder / TEST_FILE):
            if path.is_file():
                return (path,)
    return _xml_in(folder)


def _xml_in(folder: Path) -> Files:
    return tuple(sorted([*folder.glob("*.xml"), *folder.glob("*/*.xml")]))
