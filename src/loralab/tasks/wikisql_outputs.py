"""A system's outputs on WikiSQL: one a line, SQL text or the JSON of the official predictions file.

As the official files do, one may end in blank lines. It knows nothing of what the lines mean.
"""

from pathlib import Path

from loralab.errors import DataError
from loralab.tasks.example import Examples
from loralab.tasks.outputs import OutputFormat, read_text, render_output_lines, text_lines


def read_outputs(path: Path, examples: Examples) -> list[str]:
    """The outputs, without surrounding space. Raises `DataError` where there are more or fewer than examples."""
    lines = [line.strip() for line in text_lines(read_text(path))]
    while len(lines) > len(examples) and not lines[-1]:
        lines.pop()
    if len(lines) != len(examples):
        raise DataError(
            f"{path} has {len(lines)} lines, but there are {len(examples)} questions; "
            "write one query a line, in the order of the questions"
        )
    return lines


WIKISQL_OUTPUTS = OutputFormat(read_outputs, render_output_lines)
"""Written one a line, with a space in place of each line break."""
