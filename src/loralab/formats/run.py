"""What run.json says of the training that an adapter comes from, as far as later work asks for it.

`loralab train` writes it beside the adapter; a folder of another program has none. PEFT's own files record neither the
order of the classes nor what the model was trained for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.errors import AdapterFileError
from loralab.files.names import RUN_NAME, SIDECAR_NAME
from loralab.files.values import flag, text, texts
from loralab.files.whole import read_json
from loralab.tasks.preference import PreferenceObjective


@dataclass(frozen=True)
class RunRecord:
    """A training, as it was recorded; nothing is known where nothing was."""

    kind: str = ""
    """Of the task: generation, classification or regression."""
    model_kind: str = ""
    """What kind of model was trained."""
    labels: tuple[str, ...] = ()
    """The classes in the order of the outputs."""
    conversations: bool = False
    """Whether the examples were conversations."""
    notes: tuple[str, ...] = ()
    task: str = ""
    data: str | None = None
    validation: str | None = None
    validation_share: float | None = None
    preference: PreferenceObjective | None = None
    """How it learned from pairs of answers, if it did."""
    seed: int = 0
    """The task and its data, what was held out of them, and what drew it: as the configuration has it."""

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "RunRecord":
        """From the content of the file; raises TypeError for fields that hold what they cannot."""
        return RunRecord(
            text(content.get("kind", ""), "kind"),
            text(content.get("model_kind", ""), "model_kind"),
            tuple(texts(content.get("labels", []), "labels")),
            flag(content.get("conversations", False), "conversations"),
            tuple(texts(content.get("notes", []), "notes")),
            **_held_out(content.get("config", {})),
        )


def _held_out(config: Any) -> dict[str, Any]:
    """The fields of the configuration that say what was trained on and what was not."""
    told = config if isinstance(config, Mapping) else {}
    values = {name: told.get(name) for name in ("data", "validation")}
    share, seed = told.get("validation_share"), told.get("seed", 0)
    if not isinstance(share, float | int | None) or not isinstance(seed, int):
        raise TypeError(f"validation_share {share!r}, seed {seed!r}: they must be numbers")
    learned = _preference(told)
    named = {name: None if value is None else text(value, name) for name, value in values.items()}
    return {
        "task": text(told.get("task", ""), "task"),
        **named,
        "validation_share": share,
        "seed": seed,
        "preference": learned,
    }


def _preference(config: Mapping[str, Any]) -> PreferenceObjective | None:
    name, beta, smoothing = (config.get(key) for key in ("preference", "beta", "label_smoothing"))
    if name is None:
        return None
    if name not in ("dpo", "orpo") or not isinstance(beta, float | int) or not isinstance(smoothing, float | int):
        raise TypeError(f"preference {name!r}, beta {beta!r}, label_smoothing {smoothing!r}: none that is known")
    return PreferenceObjective(name, beta, smoothing)


def read_run(folder: Path) -> RunRecord:
    """The folder's run.json; an empty record where there is none, AdapterFileError where it is damaged."""
    path = folder / RUN_NAME
    if not path.is_file():
        return RunRecord()
    try:
        return RunRecord.from_json(read_json(path))
    except TypeError as problem:
        raise AdapterFileError(f"{path} is damaged ({problem}); correct it, or remove it") from problem


def recorded_labels(folder: Path) -> tuple[str, ...] | None:
    """The classes in the order of the outputs, from run.json or else from loralab.json; None where neither says it."""
    return read_run(folder).labels or _labels_of_sidecar(folder / SIDECAR_NAME) or None


def _labels_of_sidecar(path: Path) -> tuple[str, ...]:
    try:
        return tuple(texts(read_json(path).get("labels", []), "labels")) if path.is_file() else ()
    except TypeError as problem:
        raise AdapterFileError(f"{path} is damaged ({problem}); correct its labels, or remove it") from problem
