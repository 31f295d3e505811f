"""GLUE's tab-separated files: the data as rows of named cells, and predictions in the submission format.

There is no quoting: a quotation mark is a quotation mark, and every line is a row. MRPC's files begin with a byte-order
mark, and CoLA's have no header. Predictions are a TSV with the columns `index` and `prediction`; read are also files of
one prediction a line. A class is written as in the official files, and read also by its name.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from loralab.errors import DataError
from loralab.tasks.example import Examples
from loralab.tasks.outputs import OutputFormat, read_output_lines, read_text, text_lines
from loralab.tasks.readers.lines import Line

MOST_TORN = 0.001
"""Share of rows with too few cells up to which they are a known flaw of the file, not a broken file."""


def read_table(path: Path, columns: Sequence[str] = (), *, torn_rows: bool = False) -> list[Line]:
    """All rows of a file with the given columns, or with those of its header; cells are without surrounding space.

    A file with `columns` may yet have a header (CoLA's test file has one, and other columns): one whose first cell is
    "index". With `torn_rows` those of too few cells are left out, up to `MOST_TORN` of all. Raises `DataError`
    with the line for any other row that is not as wide as the header.
    """
    lines = text_lines(read_text(path))
    if not lines or lines == [""]:
        raise DataError(f"{path} is empty; download it again")
    headed = not columns or lines[0].startswith("index\t")
    names = [cell.strip() for cell in lines[0].split("\t")] if headed else list(columns)
    rows, torn = [], 0
    for number, line in enumerate(lines[headed:], start=1 + headed):
        cells = [cell.strip() for cell in line.split("\t")]
        if torn_rows and len(cells) < len(names):
            torn += 1
        else:
            rows.append(Line(path, number, _named(path, number, names, cells)))
    if torn > MOST_TORN * len(lines):
        raise DataError(f"{path}: {torn} of {len(lines)} rows have too few cells; download it again")
    return rows


def _named(path: Path, number: int, names: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(names):
        raise DataError(
            f"{path}, line {number}: {len(cells)} cells, expected {len(names)} ({', '.join(names)}) parted by tabs; "
            "give GLUE's own file, which has no quoting"
        )
    return dict(zip(names, cells, strict=True))


# -- predictions -----------------------------------------------------------------------------------------------------

HEADER = ("index", "prediction")
LOWEST, HIGHEST = 0.0, 5.0
"""The scale of STS-B's values; what a model says beyond it is moved to its end."""


def glue_outputs(labels: Mapping[str, str], file_names: Mapping[str, str]) -> OutputFormat:
    """The format of a task whose files write the classes as the keys of `labels` (none: a value is predicted)."""
    return OutputFormat(partial(_read, labels), partial(_render, labels), file_names)


def _read(labels: Mapping[str, str], path: Path, examples: Examples) -> list[str]:
    """The predicted classes' names, or the values, in the order of the examples."""
    if tuple(read_text(path).partition("\n")[0].split()) != HEADER:
        return [labels.get(line, line) for line in read_output_lines(path, examples)]
    predictions: dict[str, str] = {}
    for row in read_table(path):
        index = row.content["index"]
        if index in predictions:
            raise row.error(f"a second prediction for the index {index}; give one for each example")
        predictions[index] = row.content["prediction"]
    due = [str(number) for number in range(len(examples))]
    if predictions.keys() != set(due):
        last = len(examples) - 1
        raise DataError(f"{path} has {len(predictions)} predictions; their index must run from 0 to {last}")
    return [labels.get(predictions[index], predictions[index]) for index in due]


def _render(labels: Mapping[str, str], examples: Examples, outputs: Sequence[str]) -> str:
    words = {name: word for word, name in labels.items()}
    written = [words[output] if words else f"{min(HIGHEST, max(LOWEST, float(output))):.3f}" for output in outputs]
    return "\t".join(HEADER) + "\n" + "".join(f"{index}\t{word}\n" for index, word in enumerate(written))
