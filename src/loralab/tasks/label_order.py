"""The same classes in another order: a task's names beside those of who numbers them otherwise.

A checkpoint numbers its outputs, a data set its classes; that both number the same names alike is chance. It knows
nothing of models.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from loralab.tasks.example import AnyExample, Examples, ImageExample, LabelledExample
from loralab.tasks.task import Task

_WORDS = {"false": "0", "true": "1"}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())


def _numbered(name: str) -> str:
    plain = _plain(name).removeprefix("label ")
    return _WORDS.get(plain, plain)


SAME: tuple[Callable[[str], str], ...] = (str, str.casefold, _plain, _numbered)
"""What is compared of two names, the strictest first: themselves; case apart; `not_equivalent` with "Not equivalent";
`LABEL_1` and `True` with 1."""


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether these are transformers' LABEL_0, LABEL_1, … in order, which say nothing."""
    return list(names) == [f"LABEL_{number}" for number in range(len(names))]


def in_order_of(names: Sequence[str], order: Sequence[str]) -> tuple[str, ...] | None:
    """`names` in the order that `order` has them in; where `order` has more, those stand there in its own spelling.

    None where one of the names is not there, or it is not clear which it is.
    """
    for same in SAME:
        own = {same(name): name for name in names}
        theirs = [same(name) for name in order]
        if len(own) == len(names) and len(set(theirs)) == len(theirs) and own.keys() <= set(theirs):
            return tuple(own.get(key, name) for key, name in zip(theirs, order, strict=True))
    return None


def reordered(task: Task, names: Sequence[str]) -> Task:
    """The task with its classes numbered in the order of `names`, which hold all of them."""
    if tuple(names) == task.labels:
        return task
    numbers = [names.index(label) for label in task.labels]
    return replace(
        task, labels=tuple(names), splits=_renumbered(task.splits, numbers), answers=_renumbered(task.answers, numbers)
    )


Readers = Mapping[str, Callable[[], Examples]]


def _renumbered(readers: Readers, numbers: Sequence[int]) -> Readers:
    return {split: cache(partial(_read, read, numbers)) for split, read in readers.items()}


def _read(read: Callable[[], Examples], numbers: Sequence[int]) -> Examples:
    return tuple(_with_number(each, numbers) for each in read())


def _with_number(example: AnyExample, numbers: Sequence[int]) -> AnyExample:
    if not isinstance(example, LabelledExample | ImageExample) or example.label is None:
        return example
    return replace(example, label=numbers[int(example.label)])
