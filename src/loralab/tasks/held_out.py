"""What the user holds out for validation: data of their own, or a share of what is trained on.

The share is drawn by a seed among the distinct inputs (everything but the answer), so that no input is on two sides. Of
a single document the end is held out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from loralab.errors import DataError, SpecError
from loralab.tasks.example import Document, Examples
from loralab.tasks.official import WHOLE_FILE
from loralab.tasks.own.inputs import cut_document, input_of
from loralab.tasks.task import Task

OF_FOLDER = (WHOLE_FILE, "validation", "test")
"""Which split of the data that are given as validation is taken: all of a file, else what is called so."""


CALLED = {
    "Example": "prompts with completions",
    "Conversation": "conversations",
    "Document": "texts alone",
    "Preference": "pairs of answers",
    "LabelledExample": "labelled texts",
    "ImageExample": "images",
}
"""Kinds of examples as users call them."""


@dataclass(frozen=True)
class Holdout:
    """What is held out beside what the data themselves name; nothing by default."""

    path: str | None = None
    """Data of their own."""
    share: float | None = None
    """Of the training inputs, between 0 and 1."""
    seed: int = 0
    """Draws the share."""
    of_training: float | None = None
    """The share of the training split alone that is measured on in place of what the data hold out."""

    @property
    def given(self) -> bool:
        """Whether anything is held out by these."""
        return self.path is not None or self.share is not None


def hold_out(task: Task, held_out: Holdout, open_other: Callable[[str], Task]) -> Task:
    """The task with what is held out as its split `validation`, and all else of a single file for training.

    `open_other` opens the data at a path as a task like this one. Raises `SpecError` where the data have a validation
    split to draw a share beside, and `DataError` for data of another kind, or where there is nothing to hold out.
    """
    if held_out.of_training is not None:
        return _inside_training(hold_out(task, replace(held_out, of_training=None), open_other), held_out)
    if not held_out.given:
        return task
    whole = WHOLE_FILE in task.splits
    named = {name: read for name, read in task.splits.items() if not (whole and name in ("validation", "test"))}
    train = task.examples(WHOLE_FILE if whole else "train")
    if held_out.path is not None:
        kept, held, note = train, *_from_path(task, train, held_out.path, open_other)
        files = tuple(dict.fromkeys((*task.files, *open_other(held_out.path).files)))
    else:
        kept, held, note = _share(task, named, train, held_out)
        files = task.files
    splits = {**named, "train": lambda: kept, "validation": lambda: held}
    notes = tuple(each for each in task.notes if each != task.split_note)
    return replace(task, splits=splits, notes=(*notes, *note), split_note="", files=files)


def _inside_training(task: Task, held_out: Holdout) -> Task:
    """The task as its training split alone, of which a share is the validation: nothing else is ever looked at."""
    assert held_out.of_training is not None
    train = task.examples("train")
    kept, held = draw_share(train, held_out.of_training, held_out.seed)
    note = f"{len(held)} of {len(train)} training examples are measured on, in place of what the data hold out"
    splits = {"train": lambda: kept, "validation": lambda: held}
    return replace(task, splits=splits, notes=(*task.notes, note), split_note="")


def _from_path(
    task: Task, train: Examples, path: str, open_other: Callable[[str], Task]
) -> tuple[Examples, tuple[str, ...]]:
    """The examples of the user's validation data, and what is to be said of them."""
    other = open_other(path)
    split = next((name for name in OF_FOLDER if name in other.splits), None)
    if split is None:
        raise DataError(
            f"validation {path} has the splits {', '.join(other.splits)}; give a file, or a folder that has validation"
        )
    held = other.examples(split)
    if other.kind != task.kind or type(held[0]) is not type(train[0]):
        raise DataError(
            f"validation {path} holds {_called(held)}, the data hold {_called(train)}; give data of one shape"
        )
    known = {input_of(each) for each in train}
    again = sum(input_of(each) in known for each in held)
    overlap = f"; {again} of them are training inputs too: what is measured on these flatters" if again else ""
    return held, (f"measured on {path} while training: {len(held)} examples{overlap}",)


def _called(examples: Examples) -> str:
    return CALLED[type(examples[0]).__name__]


def _share(
    task: Task, named: dict[str, Callable[[], Examples]], train: Examples, held_out: Holdout
) -> tuple[Examples, Examples, tuple[str, ...]]:
    """(what is kept for training, what is held out, what is to be said)."""
    own = [name for name in named if name.startswith("validation")]
    if own:
        raise SpecError(
            f"validation_share {held_out.share}: task {task.name} has the split {own[0]} already; leave one of them out"
        )
    assert held_out.share is not None
    kept, held = draw_share(train, held_out.share, held_out.seed)
    note = f"{len(held)} of {len(train)} training examples are held out for validation, drawn by seed {held_out.seed}"
    return kept, held, (note if len(train) > 1 else "the end of the document is held out for validation",)


def draw_share(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """(the rest, a share of the distinct inputs, at least one), each in the order of the examples.

    Raises `DataError` where there are fewer than two inputs, but for one document, of which the end is taken.
    """
    if len(examples) == 1 and isinstance(examples[0], Document):
        return cut_document(examples[0], share)
    inputs = sorted({input_of(each) for each in examples}, key=lambda text: sha256(f"{seed}\0{text}".encode()).digest())
    if len(inputs) < 2:
        raise DataError(f"{len(inputs)} distinct input, of which none can be held out; give more data")
    aside = set(inputs[: min(len(inputs) - 1, max(1, round(len(inputs) * share)))])
    kept, held = (tuple(each for each in examples if (input_of(each) in aside) is side) for side in (False, True))
    return kept, held
