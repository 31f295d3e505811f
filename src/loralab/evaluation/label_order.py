"""In which order a model's outputs stand for a task's classes: what says so, and what is assumed where nothing does."""

from collections.abc import Sequence
from typing import Any

from loralab.errors import SpecError
from loralab.models.outputs import output_names
from loralab.tasks.label_order import are_placeholders, in_order_of, reordered
from loralab.tasks.task import Task

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
