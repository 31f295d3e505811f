"""The order of the classes that an adapter's outputs stand for, as its folder records it. PEFT's files never do."""

from pathlib import Path

from loralab.errors import AdapterFileError
from loralab.files.names import RUN_NAME, SIDECAR_NAME
from loralab.files.values import texts
from loralab.files.whole import read_json


def recorded_labels(folder: Path) -> tuple[str, ...] | None:
    """The classes in the order of the outputs, from run.json or else from loralab.json; None where neither says it."""
    for name in (RUN_NAME, SIDECAR_NAME):
        if (folder / name).is_file() and (labels := _labels(folder / name)):
            return labels
    return None


def _labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(texts(read_json(path).get("labels", []), "labels"))
    except TypeError as problem:
        raise AdapterFileError(f"{path} is damaged ({problem}); correct its labels, or remove it") from problem
