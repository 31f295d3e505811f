"""A system's outputs on E2E: the challenge's own TSV (header `MR output`), or one a line.

The TSV is read as the challenge's script reads it: without a byte-order mark, with four doubly encoded
characters put right, each line stripped and parsed as CSV with tabs; outputs are found by their meaning
representation, in whatever order.
"""

import csv
from pathlib import Path

from loralab.errors import DataError
from loralab.tasks.example import Example, Examples
from loralab.tasks.outputs import OutputFormat, read_output_lines, read_text, render_output_lines, text_lines

HEADER = ["MR", "output"]
CUE = " ->"
"""Between the meaning representation and the text, which follows after a space."""
MISREAD = {"Ł": "£", "Â£": "£", "Ã©": "é", "ã©": "é"}
"""Characters that some systems wrote in a wrong coding -> what they are (the official script's list)."""


def read_outputs(path: Path, examples: Examples) -> list[str]:
    """The outputs in the order of the examples. Raises `DataError` for an input without or with two outputs."""
    text = read_text(path)
    if text.partition("\n")[0].strip() != "\t".join(HEADER):
        return read_output_lines(path, examples)
    outputs: dict[str, str] = {}
    for number, (meaning, output) in enumerate(_rows(path, text), start=2):
        if meaning in outputs:
            raise DataError(f"{path}, line {number}: a second output for {meaning!r}; give one for each unique input")
        outputs[meaning] = output
    meanings = [each.prompt.removesuffix(CUE) for each in examples if isinstance(each, Example)]
    missing = [meaning for meaning in meanings if meaning not in outputs]
    unknown = sorted(outputs.keys() - set(meanings))
    if missing or unknown:
        example = f"no output for {missing[0]!r}" if missing else f"an output for {unknown[0]!r}, which is not asked"
        raise DataError(
            f"{path}: {len(missing)} inputs have no output and {len(unknown)} outputs have no input ({example}); "
            "give the outputs of the very file that the references are of"
        )
    return [outputs[meaning] for meaning in meanings]


def _rows(path: Path, text: str) -> list[tuple[str, str]]:
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
