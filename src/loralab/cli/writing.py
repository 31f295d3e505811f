"""Where a verb writes: a place where nothing is, or with --overwrite one that an earlier call of its kind filled.

What is replaced stays until the new one is whole, and a folder that holds anything else is left alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from loralab.errors import OutputError
from loralab.files.names import CONFIG_NAME, OLD_TENSORS_NAME, PLAIN_NAME, RUN_NAME, SAVED
from loralab.files.whole import replacing
from loralab.models.processor_names import IMAGE_FILES, MORE_TEMPLATES, TOKENIZER_FILES

PROCESSOR = (*TOKENIZER_FILES, *IMAGE_FILES, MORE_TEMPLATES)
WEIGHTS = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
WRITTEN = "written"
"""The key under which a mark lists the names beside it."""


@dataclass(frozen=True)
class Product:
    """What a verb writes: how such a folder is recognised, and what may be in it."""

    what: str
    mark: str
    """The file that tells it; it may list names under `written` that count as well."""
    names: Sequence[str]
    """Patterns of what may be in it."""

    def foreign(self, folder: Path) -> list[str]:
        """Names in a folder that no verb of this kind wrote."""
        known = [self.mark, *self.names, *self._listed(folder)]
        return sorted(each.name for each in folder.iterdir() if not any(fnmatch(each.name, name) for name in known))

    def _listed(self, folder: Path) -> list[str]:
        try:
            content = json.loads((folder / self.mark).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        listed = content.get(WRITTEN, []) if isinstance(content, dict) else []
        return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


ADAPTER = Product("an adapter", CONFIG_NAME, (*SAVED, OLD_TENSORS_NAME, PLAIN_NAME, RUN_NAME, "README.md", *PROCESSOR))
MERGED = Product("a merged model", "loralab_merge.json", (*WEIGHTS, *PROCESSOR))
PRUNED = Product("a pruned model", "prune.json", ("prune.png", *WEIGHTS, *PROCESSOR))
LINEARIZED = Product("a linearized model", "linearize.json", ("linearize.png", "remaining", "affine_blocks.*"))


COMPARISON = Product(
    "a comparison", "comparison.json", ("cells", "tuning", "results.json", "table.md", "lock", "*.png", ".loralab-*")
)

TUNING = Product(
    "a tuning",
    "tune.json",
    ("trials", "best", "again", "results.json", "table.md", "lock", "*.png", ".loralab-*"),
)


@contextmanager
def writing(out: str, kind: Product, *, overwrite: bool, reads: Sequence[str | None] = ()) -> Iterator[None]:
    """Within this block the verb writes its folder `out`, which may be replaced if that was asked for.

    Raises OutputError, before anything is read or computed, for a place that holds something, and with `overwrite` for
    what is not of the kind, for files that are not its own, and for one that holds what the verb `reads`.
    """
    place = Path(out)
    if not is_occupied(place):
        yield
        return
    if not overwrite:
        raise _exists(place)
    refuse_other(place, kind)
    inside = [read for read in reads if read is not None and _is_within(Path(read), place)]
    if inside:
        raise OutputError(f"{place} holds what is read ({', '.join(inside)}), so it is not replaced; choose another")
    with replacing(place):
        yield


@contextmanager
def writing_file(
    out: str, is_such: Callable[[bytes], bool], *, overwrite: bool, reads: Sequence[str] = ()
) -> Iterator[None]:
    """As `writing`, for a file, whose first 16 bytes say whether it is one of its kind."""
    place = Path(out)
    if not is_occupied(place):
        yield
        return
    if not overwrite:
        raise _exists(place)
    if not place.is_file() or place.is_symlink() or not is_such(_head(place)):
        raise OutputError(f"{place} is no such file of loralab's, so --overwrite leaves it alone; remove it yourself")
    if any(_is_within(Path(read), place) for read in reads):
        raise OutputError(f"{place} is what is read, so it is not replaced; choose another place")
    with replacing(place):
        yield


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(16)


def _exists(place: Path) -> OutputError:
    return OutputError(f"{place} exists already; choose another place, or give --overwrite to replace it")


def is_occupied(place: Path) -> bool:
    """Whether something is there that a new folder would be written over."""
    return (place.exists() or place.is_symlink()) and not (place.is_dir() and not any(place.iterdir()))


def refuse_other(place: Path, kind: Product) -> None:
    """Raise OutputError for anything but a folder of this kind with nothing else in it."""
    if not place.is_dir() or place.is_symlink() or not (place / kind.mark).is_file():
        raise OutputError(
            f"{place} is not {kind.what} of loralab's, so --overwrite leaves it alone; remove it yourself"
        )
    foreign = kind.foreign(place)
    if foreign:
        listed = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise OutputError(
            f"{place} holds more than {kind.what}: {listed}; --overwrite leaves it alone. Move them, or choose another "
            "place"
        )


def _is_within(path: Path, place: Path) -> bool:
    whole, inner = place.resolve(), path.expanduser().resolve()
    return path.exists() and (inner == whole or whole in inner.parents)
