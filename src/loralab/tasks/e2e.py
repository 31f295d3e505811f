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
from loralab.tasks.example import Example, Examples
from loralab.tasks.hub import HubSet
from loralab.tasks.official import official_task
from loralab.tasks.outputs import (
    OutputFormat,
    one_per_input,
    read_output_lines,
    read_text,
    render_output_lines,
    text_lines,
)
from loralab.tasks.task import Task

FILES = {"train": ["trainset.csv"], "validation": ["devset.csv"], "test": ["testset_w_refs.csv"]}
"""The official file of each split."""

METRICS = ("bleu", "nist", "meteor", "rouge_l", "cider")
COLUMNS = ("mr", "ref")
HEADER = ["MR", "output"]
CUE = " ->"
"""Between the meaning representation and the text, which follows after a space."""
MISREAD = {"Ł": "£", "Â£": "£", "Ã©": "é", "ã©": "é"}
"""Characters that some systems wrote in a wrong coding -> what they are (the official script's list)."""
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
    read = _from_file, _from_hub
    return official_task("e2e", data, labels, FILES, read, METRICS, score_texts=score_e2e, outputs=E2E_OUTPUTS)


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
                    f"{path}, line 1: the header is {','.join(header)!r:.200}, expected 'mr,ref'; "
                    "give the official E2E release's files"
                )
            return [_row(path, reader.line_num, cells) for cells in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a UTF-8 CSV file: {error}; download it again") from error


def single_references(rows: Iterable[Row]) -> tuple[Example, ...]:
    """One example per row."""
    return tuple(Example(meaning + CUE, " " + reference, (reference,)) for meaning, reference in rows)


def grouped_references(rows: Iterable[Row]) -> tuple[Example, ...]:
    """One example per unique meaning representation, with its references in the order of the rows."""
    return one_per_input(single_references(rows))


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
            f"{path}, line {line}: {len(cells)} cells {cells!r:.80}, expected a meaning representation and a "
            "reference; correct or remove the row"
        )
    return cells[0], cells[1]


# -- a system's outputs -----------------------------------------------------------------------------------------------


def read_outputs(path: Path, examples: Examples) -> list[str]:
    """The outputs in the order of the examples: of the challenge's own TSV (header `MR output`), or one a line.

    The TSV is read as the challenge's script reads it: without a byte-order mark, with four doubly encoded characters
    put right, each line stripped and parsed as CSV with tabs; outputs are known by their meaning representation, in
    whatever order. Raises `DataError` for an input without or with two outputs.
    """
    text = read_text(path)
    if text.partition("\n")[0].strip() != "\t".join(HEADER):
        return read_output_lines(path, examples)
    outputs: dict[str, str] = {}
    for number, (meaning, output) in enumerate(_output_rows(path, text), start=2):
        if meaning in outputs:
            raise DataError(
                f"{path}, line {number}: a second output for {meaning!r:.80}; give one for each unique input"
            )
        outputs[meaning] = output
    meanings = [each.prompt.removesuffix(CUE) for each in examples if isinstance(each, Example)]
    missing = [meaning for meaning in meanings if meaning not in outputs]
    unknown = sorted(outputs.keys() - set(meanings))
    if missing or unknown:
        example = (
            f"no output for {missing[0]!r:.80}" if missing else f"an output for {unknown[0]!r:.80}, which is not asked"
        )
        raise DataError(
            f"{path}: {len(missing)} inputs have no output and {len(unknown)} outputs have no input ({example}); "
            "give the outputs of the very file that the references are of"
        )
    return [outputs[meaning] for meaning in meanings]


def _output_rows(path: Path, text: str) -> list[tuple[str, str]]:
    for wrong, right in MISREAD.items():
        text = text.replace(wrong, right)
    lines = [line.strip() for line in text_lines(text)]
    rows = []
    try:
        for number, cells in enumerate(csv.reader(lines, delimiter="\t"), start=1):
            if len(cells) != len(HEADER):
                raise DataError(f"{path}, line {number}: {len(cells)} cells, expected a meaning and an output")
            rows.append((cells[0], cells[1].strip()))
    except csv.Error as error:
        raise DataError(f"{path} is not a TSV file: {error}") from error
    return rows[1:]


E2E_OUTPUTS = OutputFormat(read_outputs, render_output_lines)
"""Read in either form; written one a line."""
