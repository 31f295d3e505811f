"""The E2E NLG challenge: a restaurant's meaning representation -> a sentence about it.

Read from the official release's CSV files (Novikova et al. 2017; Dušek et al. 2020). For training there is
one example per row; for anything else one per unique meaning representation, in the order of first
appearance, with all its references: that is what the published scores are computed on. The loss of
such an example is taken on its first reference.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from loralab.errors import DataError
from loralab.metrics.suites import score_e2e
from loralab.tasks.e2e_outputs import CUE, E2E_OUTPUTS
from loralab.tasks.example import Example
from loralab.tasks.hub import HubSet
from loralab.tasks.official import read_files, refuse_labels, split_readers
from loralab.tasks.task import Task

FILES = {"train": ["trainset.csv"], "validation": ["devset.csv"], "test": ["testset_w_refs.csv"]}
"""The official file of each split."""

METRICS = ("bleu", "nist", "meteor", "rouge_l", "cider")
COLUMNS = ("mr", "ref")
HUB = HubSet(
    "e2e",
    "tuetschek/e2e_nlg",
    "trainset.csv, devset.csv and testset_w_refs.csv, of e2e-dataset.zip at https://github.com/tuetschek/e2e-dataset",
)

Row = tuple[str, str]


def open_e2e(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task, from a folder with the official CSV files, from one of them, or from the Hub without either.

    Raises `NotFoundError` for a path that is not there or a folder with none of the files, `SpecError` for labels.
    """
    refuse_labels("e2e", labels)
    splits = split_readers("e2e", data, FILES, _from_file, _from_hub)
    return Task(
        "e2e",
        "generation",
        splits,
        METRICS,
        score_texts=score_e2e,
        outputs=E2E_OUTPUTS,
        files=read_files("e2e", data, FILES),
    )


def read_rows(path: Path) -> list[Row]:
    """(meaning representation, reference) of every row of one official CSV file.

    Rows are records, not lines: two references of the training set contain a line break. Raises `DataError`
    with the line for a wrong header, a row of another width, or an empty cell.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = tuple(next(reader, ()))
            if header != COLUMNS:
                raise DataError(
                    f"{path}, line 1: the header is {','.join(header)!r}, expected 'mr,ref'; "
                    "give the official E2E release's files"
                )
            return [_row(path, reader.line_num, cells) for cells in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a UTF-8 CSV file: {error}; download it again") from error


def single_references(rows: Iterable[Row]) -> tuple[Example, ...]:
    """One example per row."""
    return tuple(_example(meaning, (reference,)) for meaning, reference in rows)


def grouped_references(rows: Iterable[Row]) -> tuple[Example, ...]:
    """One example per unique meaning representation, with its references in the order of the rows."""
    references: dict[str, list[str]] = {}
    for meaning, reference in rows:
        references.setdefault(meaning, []).append(reference)
    return tuple(_example(meaning, tuple(each)) for meaning, each in references.items())


def _from_file(split: str, path: Path) -> tuple[Example, ...]:
    return _examples(read_rows(path), split)


def _from_hub(split: str) -> tuple[Example, ...]:
    rows = HUB.rows(split)
    return _examples([(str(row["meaning_representation"]), str(row["human_reference"])) for row in rows], split)


def _examples(rows: list[Row], split: str) -> tuple[Example, ...]:
    return single_references(rows) if split == "train" else grouped_references(rows)


def _row(path: Path, line: int, cells: list[str]) -> Row:
    if len(cells) != len(COLUMNS) or not all(cell.strip() for cell in cells):
        raise DataError(
            f"{path}, line {line}: {len(cells)} cells {cells!r}, expected a meaning representation and a reference; "
            "correct or remove the row"
        )
    return cells[0], cells[1]


def _example(meaning: str, references: tuple[str, ...]) -> Example:
    return Example(meaning + CUE, " " + references[0], references)
