"""Where the files of the WebNLG 2017 release are: which belong to which split. It opens none."""

from pathlib import Path

from loralab.errors import NotFoundError, SpecError
from loralab.tasks.official import WHOLE_FILE

FOLDERS = {"train": "train", "validation": "dev", "test": "test"}
"""The folder of each split, with files in it or in 1triples … 7triples below it."""
TEST_FILE = "testdata_with_lex.xml"
"""The test set, all of it and with its texts; other files beside it have parts of it, or no texts."""

Files = tuple[Path, ...]


def webnlg_files(data: str) -> dict[str, Files]:
    """split -> its files, in their order.

    A folder may be the release, as it is or in one more folder, or that of a split, whose files are then the split
    `WHOLE_FILE`, as is a single file. Raises `NotFoundError` where there is no such thing, `SpecError` where
    there are two.
    """
    path = Path(data)
    if path.is_file():
        return {WHOLE_FILE: (path,)}
    if not path.is_dir():
        raise NotFoundError(f"task webnlg: no folder {path}; give the folder with train, dev and {TEST_FILE} as --data")
    splits = _splits_below(path)
    if not splits and (own := _xml_in(path)):
        return {WHOLE_FILE: own}
    if not splits:
        raise NotFoundError(
            f"task webnlg: {path} holds neither train/1triples/*.xml, dev/1triples/*.xml nor {TEST_FILE}, and no XML "
            "files of its own; give the release's folder as --data"
        )
    return splits


def _splits_below(path: Path) -> dict[str, Files]:
    """The splits whose files are in the folder or in one of its folders."""
    places = [path, *sorted(each for each in path.iterdir() if each.is_dir())]
    found = {
        split: [*dict.fromkeys(files for place in places if (files := _files_of(split, place)))] for split in FOLDERS
    }
    for split, sets in found.items():
        if len(sets) > 1:
            first, second = sets[0][0].parent, sets[1][0].parent
            raise SpecError(f"task webnlg: two {split} sets in {path}, {first} and {second}; give the folder of one")
    return {split: sets[0] for split, sets in found.items() if sets}


def _files_of(split: str, place: Path) -> Files:
    folder = place / FOLDERS[split]
    if split == "test":
        for path in (place / TEST_FILE, folder / TEST_FILE):
            if path.is_file():
                return (path,)
    return _xml_in(folder)


def _xml_in(folder: Path) -> Files:
    return tuple(sorted([*folder.glob("*.xml"), *folder.glob("*/*.xml")]))
