"""Images sorted into one folder per class, for each split or in all.

D/cat/1.png, or D/train/cat/1.png with D/validation/cat (or val, dev) and D/test/cat beside it.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from loralab.errors import DataError, some
from loralab.tasks.images.file import SUFFIXES
from loralab.tasks.images.lists import ListedImage, Listing, by_split
from loralab.tasks.official import WHOLE_FILE
from loralab.tasks.splits import SPLIT_NAMES

HIDDEN = ("Thumbs.db", "desktop.ini")
"""Files that Windows hides, as a leading dot does elsewhere."""


def list_folders(root: Path, classes: Sequence[str] | None) -> Listing:
    """The images in the class folders below `root`, or below its folders for the splits.

    Within a split the classes take turns, so that its first so many images are of all classes. Raises `DataError`
    for a class that the training data lack, for fewer than two, for a class folder that is empty or holds anything but
    images, and for images in none; hidden files are passed over.
    """
    folders = [each for each in _visible_in(root) if each.is_dir()]
    named = bool(folders) and all(folder.name in SPLIT_NAMES for folder in folders)
    splits = by_split(root, folders, classes) if named else {WHOLE_FILE: root}
    class_folders = {split: [each for each in _visible_in(folder) if each.is_dir()] for split, folder in splits.items()}
    names = tuple(classes or (folder.name for folder in next(iter(class_folders.values()))))
    _check_classes(root, names, chain.from_iterable(class_folders.values()))
    notes = tuple(note for folder in dict.fromkeys((root, *splits.values())) for note in _loose_files(folder))
    return Listing({split: _taking_turns(each, names) for split, each in class_folders.items()}, names, notes)


def _check_classes(root: Path, names: Sequence[str], folders: Iterable[Path]) -> None:
    if len(names) < 2:
        shown = ", ".join(names) or "none"
        raise DataError(f"{root} has too few folders of classes ({shown}); two are needed, or give a JSONL file")
    unknown = [str(folder) for folder in folders if folder.name not in names]
    if unknown:
        raise DataError(f"{', '.join(unknown)}: not one of the training data's classes ({', '.join(names)})")


def _taking_turns(folders: Sequence[Path], names: Sequence[str]) -> list[ListedImage]:
    """The first image of every class, then the second of every class, and so on."""
    classes = [[ListedImage(file, names.index(folder.name)) for file in _images_in(folder)] for folder in folders]
    return [image for image in chain.from_iterable(zip_longest(*classes)) if image is not None]


def _images_in(folder: Path) -> list[Path]:
    entries = _visible_in(folder)
    strange = [each.name for each in entries if each.is_dir() or not _is_image(each)]
    if strange:
        raise DataError(
            f"the class folder {folder} may hold images only ({' '.join(SUFFIXES)}), but there is {some(strange, 5)}; "
            f"move it away (if {folder.parent} was meant to hold splits: these are called {', '.join(SPLIT_NAMES)})"
        )
    if not entries:
        raise DataError(f"the class folder {folder} is empty; put images there, or remove it")
    return entries


def _loose_files(folder: Path) -> list[str]:
    """A sentence that says which files beside the class folders were left aside."""
    files = [each for each in _visible_in(folder) if not each.is_dir()]
    images = [each.name for each in files if _is_image(each)]
    if images:
        raise DataError(f"{folder} holds images outside the folders of the classes ({some(images, 5)}); move them")
    return [f"left aside in {folder}: {some([each.name for each in files], 5)}"] if files else []


def _visible_in(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not each.name.startswith(".") and each.name not in HIDDEN)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES
