"""SAMSum: a messenger conversation -> a summary of it (Gliwa et al. 2019).

Read from the official files (JSON lists of id, dialogue, summary), or JSON lines with these keys or `context` and
`response`. The dialogue is the prompt as it stands, with the line breaks that its turns are parted by (CRLF in most,
LF in others), and after it two line breaks (the paper's Appendix C). Every split but `train` has one example per
unique dialogue.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from loralab.tasks.example import Example
from loralab.tasks.hub import HubSet
from loralab.tasks.official import official_task
from loralab.tasks.outputs import one_per_input
from loralab.tasks.readers.lines import Line, read_lines
from loralab.tasks.task import ROUGE, Task

FILES = {
    "train": ["train.json", "train.jsonl"],
    "validation": ["val.json", "val.jsonl", "validation.json", "validation.jsonl"],
    "test": ["test.json", "test.jsonl"],
}
"""The names that each split's file may have."""
KEYS = (("dialogue", "summary"), ("context", "response"))
"""What the two texts are called, the official names first."""
END = "\n\n"
"""After the dialogue."""
MOST_EMPTY = 1
NOTE = "a dialogue without a word is left out of training (the official file has one); a second one is an error"

HUB = HubSet(
    "samsum",
    "knkarthick/samsum",
    "train.json, val.json and test.json, of corpus.7z at https://arxiv.org/abs/1911.12237 (ancillary files)",
)


def open_samsum(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task, from a folder with the official files, from one of them, or from the Hub without either.

    Raises `NotFoundError` for a path that is not there or a folder with none of the files, `SpecError` for labels.
    """
    return official_task("samsum", data, labels, FILES, (_from_file, _from_hub), ROUGE, notes=(NOTE,))


def _from_file(split: str, path: Path) -> tuple[Example, ...]:
    return _examples(split, read_lines(path))


def _from_hub(split: str) -> tuple[Example, ...]:
    """The Hub has nothing at all where the official file has an empty dialogue."""
    rows = [row | {"dialogue": row.get("dialogue") or ""} for row in HUB.rows(split)]
    return _examples(
        split, [Line(Path(HUB.repository), number, row, "row") for number, row in enumerate(rows, start=1)]
    )


def _examples(split: str, lines: Iterable[Line]) -> tuple[Example, ...]:
    """Raises `DataError` with the line's number for a text that is missing, no string, or without a word."""
    pairs = [(line, *_texts(line)) for line in lines]
    empty = [line for line, dialogue, _ in pairs if not dialogue.strip()]
    allowed = MOST_EMPTY if split == "train" else 0
    if len(empty) > allowed:
        raise empty[allowed].error("the dialogue is empty; there is nothing to summarise")
    examples = [
        Example(dialogue + END, summary.strip(), (summary.strip(),))
        for _, dialogue, summary in pairs
        if dialogue.strip()
    ]
    return tuple(examples) if split == "train" else one_per_input(examples)


def _texts(line: Line) -> tuple[str, str]:
    keys = next((keys for keys in KEYS if keys[0] in line.content), KEYS[0])
    dialogue, summary = (line.text(key) for key in keys)
    if not summary.strip():
        raise line.error(f"the {keys[1]} is empty; there is nothing to learn or to compare with")
    return dialogue, summary
