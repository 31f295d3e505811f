"""Predictions on GLUE in the submission format: a TSV with the columns `index` and `prediction`.

Read are also files of one prediction a line. A class is written as in the official files, and read also by its name.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from loralab.errors import DataError
from loralab.tasks.example import Examples
from loralab.tasks.glue.files import read_table
from loralab.tasks.outputs import OutputFormat, read_output_lines, read_text

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
