"""One example for each unique input, as generated text is scored. It knows nothing of data sets."""

from collections.abc import Iterable
from dataclasses import replace

from loralab.tasks.example import Example


def one_per_input(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The examples of the same prompt as one, with the references of all, in the order of first appearance.

    The target and the part are those of the first.
    """
    first: dict[str, Example] = {}
    references: dict[str, list[str]] = {}
    for example in examples:
        first.setdefault(example.prompt, example)
        references.setdefault(example.prompt, []).extend(example.answers())
    return tuple(replace(example, references=tuple(references[prompt])) for prompt, example in first.items())
