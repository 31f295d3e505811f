"""Which examples a run is measured on. Where measurements choose the adapter, the test split is never among them.

A task without a validation split then gets one: a part of its training examples, chosen by a hash of their inputs as a
single data file's is, so that no input is on both sides.
"""

from dataclasses import replace

from loralab.errors import DataError, SpecError
from loralab.evaluation.score import require_metrics
from loralab.tasks.own.inputs import HELD_OUT_SHARE, hashed_order, input_of
from loralab.tasks.table import Task
from loralab.training.config import TrainConfig


def held_out_split(task: Task) -> str | None:
    """The split to measure on: validation, or one of several of these (MNLI's), else the test split."""
    validation = [split for split in task.splits if split.startswith("validation")]
    known = ["validation"] if "validation" in validation else validation
    return next(iter([*known, *(split for split in task.splits if split == "test")]), None)


def chooses(config: TrainConfig) -> bool:
    """Whether measurements choose the adapter that is kept, or when to stop."""
    return config.best_epoch or config.eval_every > 0


def with_validation(task: Task, config: TrainConfig) -> Task:
    """The task, with a part of its training examples as validation where a choice needs one and it has none.

    Raises `DataError` where there is nothing to hold out.
    """
    if not chooses(config) or held_out_split(task) not in (None, "test"):
        return task
    examples = task.examples("train")
    inputs = hashed_order(examples)
    if len(inputs) < 2:
        raise DataError(
            f"task {task.name} has no validation split to choose the adapter by, and {len(inputs)} training input, of "
            "which none can be held out; add a validation file, or leave out best_epoch and eval_every"
        )
    aside = set(inputs[: max(1, round(len(inputs) * HELD_OUT_SHARE))])
    kept, held = (tuple(each for each in examples if (input_of(each) in aside) is side) for side in (False, True))
    note = (
        f"there is no validation split to choose the adapter by: {len(held)} of {len(examples)} training examples are "
        "held out for it, and the test split is left alone"
    )
    splits = {**task.splits, "train": lambda: kept, "validation": lambda: held}
    return replace(task, splits=splits, notes=(*task.notes, note))


def check_measured(task: Task, config: TrainConfig) -> None:
    """Raises `SpecError` where what is to be measured cannot be: found out before the training, not after it."""
    known = ("loss", "perplexity") if task.kind == "generation" else ("loss", *task.metrics)
    if config.best_metric is not None and config.best_metric not in known:
        raise SpecError(
            f"best_metric {config.best_metric!r} is not measured while training {task.name}; choose {', '.join(known)}"
        )
    split = held_out_split(task)
    if split is None or not (config.eval_limit or config.best_epoch):
        return
    examples = task.examples(split, 1)
    require_metrics(task, examples)
    if task.kind in ("classification", "regression") and getattr(examples[0], "label", None) is None:
        raise SpecError(
            f"the split {split} of task {task.name} has no labels, so nothing can be measured on it while training; "
            "add the validation file, or give eval_limit 0"
        )
