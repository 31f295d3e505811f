"""The user's own data as files: which file is which split, and which task reads what lies at a path.

A folder has files, or `datasets` on disk, that are named for splits (`splits.SPLIT_NAMES`), perhaps in parts
(train-00000-of-00002.parquet), perhaps in a folder `data` as on the Hub; or it is a `datasets` folder itself, of one
data set or of several. What is not named for a split is the whole, to be split, if it is all there is.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.tasks.official import WHOLE_FILE
from loralab.tasks.readers.columnar import is_dataset
from loralab.tasks.readers.rows import READERS, ending_of, files_of
from loralab.tasks.readers.unpacked import read_bytes
from loralab.tasks.splits import SPLIT_NAMES, SPLITS

PARTS = "dataset_dict.json"
"""What marks a folder of several `datasets`."""

DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", PARTS, "state.json")
"""JSON files that describe data and hold none."""

UNREAD = (
    *(".txt", ".zip", ".tar", ".gz", ".bz2", ".xz", ".zst"),
    *(".xls", ".xlsx", ".xml", ".yaml", ".yml", ".arrow", ".db"),
)
"""Endings of what may be data, but is not read."""

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class DataFiles:
    """The files (or data sets on disk) of each split, training first; or of `WHOLE_FILE` alone."""

    splits: Mapping[str, Sequence[Path]]
    notes: tuple[str, ...] = ()
    """What was left aside."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return tuple(file for each in self.splits.values() for path in each for file in files_of(path))


def find_data_files(path: Path) -> DataFiles:
    """The splits at a path. Raises `NotFoundError` where there is nothing to read, `SpecError` for two files that are
    for one split, `DataError` for a part that is missing.
    """
    if not path.is_dir() or is_dataset(path):
        return DataFiles({WHOLE_FILE: [path]})
    candidates = _listed(path) if (path / PARTS).is_file() else _readable(path)
    if not candidates and (path / "data").is_dir():
        return find_data_files(path / "data")
    named = _by_split(path, candidates)
    whole = not named and len(candidates) == 1
    splits = {WHOLE_FILE: candidates} if whole else {name: named[name] for name in SPLITS if name in named}
    if not splits:
        raise NotFoundError(_nothing_to_train_on(path, candidates))
    taken = {file for files in splits.values() for file in files}
    return DataFiles(splits, _left_aside(path, [each for each in candidates if each not in taken]))


def has_rows(folder: Path) -> bool:
    """Whether a folder has anything in it that `find_data_files` may read."""
    if is_dataset(folder) or (folder / PARTS).is_file() or _readable(folder):
        return True
    return (folder / "data").is_dir() and bool(_readable(folder / "data"))


def _nothing_to_train_on(path: Path, candidates: Sequence[Path]) -> str:
    others = f" ({', '.join(each.name for each in candidates[:5])})" if candidates else ""
    if not candidates and any(path.glob("*.txt")):
        return f"{path} has files of text and no rows: to learn all of these texts, give --task text --data {path}"
    return (
        f"{path} has no train.jsonl, and {len(candidates)} other JSON or JSONL files or tables{others}; put "
        f"train.jsonl there, and validation.jsonl and test.jsonl if you have them (read are {', '.join(READERS)}, also "
        f"with .gz; a split may be called {', '.join(SPLIT_NAMES)}), or give a single file"
    )


def _listed(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in json.loads(read_bytes(folder / PARTS))["splits"]]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder / PARTS} is not what datasets' save_to_disk writes ({error!r})") from error


def _readable(folder: Path) -> list[Path]:
    visible = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    return [each for each in visible if is_dataset(each) or _is_data_file(each)]


def _is_data_file(path: Path) -> bool:
    return path.is_file() and ending_of(path) is not None and path.name not in DESCRIPTIONS


def _by_split(folder: Path, candidates: Iterable[Path]) -> dict[str, list[Path]]:
    """The candidates that are named for a split."""
    named: dict[str, list[Path]] = {}
    for each in candidates:
        name = _stem(each)
        if name in SPLIT_NAMES:
            named.setdefault(SPLIT_NAMES[name], []).append(each)
    for paths in named.values():
        _check_one_source(folder, paths)
    return named


def _check_one_source(folder: Path, paths: Sequence[Path]) -> None:
    """One file, or all parts of one."""
    shards = [match for path in paths if (match := _SHARD.match(path.name))]
    if len(paths) > 1 and (len(shards) < len(paths) or len({(each[1], each[3]) for each in shards}) > 1):
        first, second, *_ = sorted(paths, key=_order)
        raise SpecError(f"{folder} has both {first.name} and {second.name}; keep one of them there")
    if shards and len(paths) != int(shards[0][3]):
        raise DataError(f"{folder} has {len(paths)} of the {int(shards[0][3])} parts of {shards[0][1]}; get the others")


def _order(path: Path) -> int:
    return list(READERS).index(ending_of(path) or ".jsonl")


def _stem(path: Path) -> str:
    """The name in lower case, without its ending and without the number of a part."""
    name = path.name
    if not path.is_dir():
        name = Path(re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)).stem
    shard = _SHARD.match(name)
    return (shard[1] if shard else name).lower()


def _left_aside(folder: Path, candidates: Sequence[Path]) -> tuple[str, ...]:
    """A sentence that names what may have been meant as data and is not read."""
    others = [
        each
        for each in folder.iterdir()
        if each.is_file()
        and not each.name.startswith(".")
        and ending_of(each) is None
        and each.suffix.lower() in UNREAD
    ]
    names = sorted(each.name for each in (*candidates, *others))
    if not names:
        return ()
    return (f"not read in {folder}: {', '.join(names)}; a split is called one of {', '.join(SPLIT_NAMES)}",)


# -- rows, or files of text ------------------------------------------------------------------------------------------

ENDINGS = (".txt", ".text", ".md", ".markdown", ".rst")
"""Of files of text in a folder, also with .gz; a single file may have any."""


def flags_for(path: str) -> str:
    """The flags that train on what is at a path."""
    place = Path(path).expanduser()
    raw = is_text(place) or (place.is_dir() and bool(text_files(place)) and not has_rows(place))
    return f"--task {'text' if raw else 'jsonl'} --data {shlex.quote(path)}"


def is_text(path: Path) -> bool:
    """Whether the path is called as files of text are."""
    return path.name.lower().removesuffix(".gz").endswith(ENDINGS) and not path.is_dir()


def text_files(folder: Path) -> list[Path]:
    """All files of text below a folder, in the order of their names; none that is hidden or in something hidden."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if is_text(path) and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
