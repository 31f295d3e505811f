"""Images with a class each: JSONL files of {"image": path, "label": class}, or a folder of images for every class.

JSONL: one file, or a folder with train.jsonl, validation.jsonl and test.jsonl; a path is relative to its file. Folders:
see `image_folders`. Data without splits are split as the task jsonl splits a single file, by the distinct images (files
of the same bytes are one); the split "all" is everything. Classes are in the order of their names.

Every image is decoded when its split is read, so that a damaged one is found before a run begins, and then anew for
every batch that it is in.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from loralab.errors import DataError, SpecError, listed
from loralab.extras import require
from loralab.tasks.example import Examples, ImageExample
from loralab.tasks.images.file import examine_image
from loralab.tasks.images.folders import list_folders
from loralab.tasks.images.lists import ListedImage, Listing, by_split, list_lines
from loralab.tasks.official import WHOLE_FILE
from loralab.tasks.own.inputs import split_rows
from loralab.tasks.own.jsonl import LABEL_METRICS
from loralab.tasks.splits import SPLIT_NAMES, SPLITS
from loralab.tasks.task import Task

MOST_SHOWN = 5
"""Unusable images that one error names."""


def open_images(data: str | None, labels: Sequence[str] | None = None) -> Task:
    """The task, with every image and its class listed; a split's images are read when it is first needed.

    Raises `SpecError` without a path, `NotFoundError` for one that is not there, and `DataError`, with file and line
    where there is one, for lists, folders, classes and images that cannot be used.
    """
    if data is None:
        raise SpecError("task images needs --data: a JSONL file, or a folder with a folder of images for each class")
    require("images", "task images")
    listing = _list(Path(data), labels)
    splits: dict[str, Callable[[], Examples]] = {
        name: cache(partial(_read, images)) for name, images in listing.splits.items()
    }
    notes, said = listing.notes, ""
    if WHOLE_FILE in splits:
        parts = _split(splits[WHOLE_FILE]())
        splits = {name: partial(parts.__getitem__, name) for name in SPLITS} | splits
        sizes = ", ".join(f"{name} {len(parts[name])}" for name in SPLITS)
        said = f"{data} names no splits; by a hash of the images it is split into {sizes}"
        notes = (*notes, said)
    metrics = LABEL_METRICS["classification"]
    return Task("images", "classification", splits, metrics, listing.classes, notes, split_note=said, inputs="images")


def _list(path: Path, classes: Sequence[str] | None) -> Listing:
    """The images of a JSONL file, or of a folder of either kind."""
    if not path.is_dir():
        return list_lines({WHOLE_FILE: path}, classes)
    files = [each for each in sorted(path.glob("*.jsonl")) if each.stem in SPLIT_NAMES]
    return list_lines(by_split(path, files, classes), classes) if files else list_folders(path, classes)


def _read(images: Sequence[ListedImage]) -> tuple[ImageExample, ...]:
    """The images, all decoded once. Raises one `DataError` for all that cannot be."""
    examples, problems = [], []
    for each in images:
        try:
            examples.append(ImageExample(each.path, each.label, examine_image(each.path)))
        except DataError as error:
            problems.append(str(error if each.line is None else each.line.error(str(error))))
    if problems:
        raise DataError(listed(problems, MOST_SHOWN))
    return tuple(examples)


def _split(examples: Examples) -> dict[str, Examples]:
    rows = split_rows(examples)
    return {name: [each for each in part if isinstance(each, ImageExample)] for name, part in rows.items()}
