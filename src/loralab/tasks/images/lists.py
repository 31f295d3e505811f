"""Which images there are, and the class of each; as the lines of JSONL files name them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loralab.errors import DataError, NotFoundError, some
from loralab.tasks.own.labels import Labelling, find_labelling, known_labelling, label_rows
from loralab.tasks.own.shapes import RawLabelled
from loralab.tasks.readers.lines import Line, read_lines
from loralab.tasks.splits import SPLIT_NAMES, SPLITS


@dataclass(frozen=True)
class ListedImage:
    """One image, the index of its class, and the line that says so, if one does."""

    path: Path
    label: int
    line: Line | None = None


@dataclass(frozen=True)
class Listing:
    """All images of a data set."""

    splits: dict[str, list[ListedImage]]
    """Training first; or `WHOLE_FILE` alone."""
    classes: tuple[str, ...]
    """Their names, in the order of the indices."""
    notes: tuple[str, ...] = ()
    """What was left aside."""


def list_lines(files: Mapping[str, Path], classes: Sequence[str] | None) -> Listing:
    """The images that each split's file names. Classes that are not known are those of the first file.

    Raises `DataError` with file and line for one that is not {"image": path, "label": string or integer} or has a
    label outside the classes; and where there are fewer than two of these.
    """
    rows = {split: [_read_line(line) for line in read_lines(path)] for split, path in files.items()}
    labelling = find_labelling(next(iter(rows.values()))) if classes is None else known_labelling(classes)
    return Listing({split: _labelled(each, labelling) for split, each in rows.items()}, labelling.names)


def by_split(root: Path, paths: Sequence[Path], classes: Sequence[str] | None) -> dict[str, Path]:
    """Files or folders that are named for splits, by the split, training first."""
    shown = ", ".join(path.name for path in paths)
    named = {SPLIT_NAMES[path.stem]: path for path in paths}
    if len(named) < len(paths):
        raise DataError(f"{root} has {shown}, of which two are for one split; keep one of them there")
    if "train" not in named and classes is None:
        raise NotFoundError(f"{root} has {shown}, but nothing to train on; the training data are called train there")
    return {split: named[split] for split in SPLITS if split in named}


def _read_line(line: Line) -> RawLabelled:
    """The path of the image in the place of a text."""
    if set(line.content) != {"image", "label"}:
        raise line.error(f"its keys are {some(sorted(line.content), 12) or 'none'}; they must be image and label")
    path, label = line.content["image"], line.content["label"]
    if not isinstance(path, str) or not path:
        raise line.error(f"image is {path!r:.60}; it must be the path of an image")
    if isinstance(label, float):
        raise line.error(f"the label is {label!r:.80}; the class of an image must be a string or an integer")
    return RawLabelled(line, path, None, label)


def _labelled(rows: Sequence[RawLabelled], labelling: Labelling) -> list[ListedImage]:
    labels = [int(each.label) for each in label_rows(rows, labelling) if each.label is not None]
    return [
        ListedImage(row.line.path.parent / row.text_a, label, row.line) for row, label in zip(rows, labels, strict=True)
    ]
