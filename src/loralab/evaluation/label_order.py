"""In which order a model's outputs stand for a task's classes: what says so, and what is assumed where nothing does.

A checkpoint numbers its outputs, a data set its classes; that both number the same names alike is chance.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from loralab.errors import SpecError
from loralab.models.outputs import are_placeholders, output_names
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


TELL = "give --labels with the classes in the order of the model's outputs"
"""What to do where nothing says the order."""


def in_order_of_model(task: Task, config: Any, *, trains: bool = False) -> tuple[Task, list[str]]:
    """The task with its classes in the order of the model's outputs, and what is to be said of it.

    Where the model names other classes: nothing is changed for one that `trains`, and `SpecError` is raised else. For a
    model that trains the classes must be the same; else it may know more of them than the data.
    """
    own = output_names(config)
    if task.kind != "classification" or own is None or own == task.labels:
        return task, []
    order = in_order_of(task.labels, own)
    if order is not None and (len(order) == len(task.labels) or not (trains or are_placeholders(own))):
        return in_known_order(task, order, "the checkpoint")
    listed = ", ".join(task.labels)
    if are_placeholders(own):
        return task, [] if trains else [
            f"the checkpoint does not name its outputs: {listed} are assumed, in that order"
        ]
    if trains:
        return task, []
    raise SpecError(
        f"the checkpoint has the classes {', '.join(own)}, task {task.name} has {listed}: they are not the same; "
        f"take a model of this task, or {TELL}"
    )


def in_known_order(task: Task, order: Sequence[str], whose: str) -> tuple[Task, list[str]]:
    """The task with its classes in this order, which `whose` has them in. Raises `SpecError` for other classes."""
    names = in_order_of(task.labels, order)
    if names is None:
        raise SpecError(
            f"{whose} has the classes {', '.join(order)}, task {task.name} has {', '.join(task.labels)}; they must be "
            "the same"
        )
    moved = names != task.labels
    return reordered(task, names), [f"classes in the order of {whose}: {', '.join(names)}"] if moved else []


def in_assumed_order(task: Task, config: Any) -> tuple[Task, list[str]]:
    """The task for an adapter that does not record the order of its classes: the base's where that names the same
    ones, else as they are; and what is to be said of it.
    """
    own = output_names(config)
    order = None if own is None or are_placeholders(own) else in_order_of(task.labels, own)
    taken = task if order is None or len(order) != len(task.labels) else reordered(task, order)
    source = "as sorted in the data" if taken is task and order is None else "as in the base's configuration"
    listed = ", ".join(taken.labels)
    return taken, [f"the adapter does not record the order of its classes: {listed} is assumed, {source}; else {TELL}"]
