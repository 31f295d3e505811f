"""Folders that a command goes on in: what they hold is of the same experiment, or there is nothing yet."""

import json
from collections.abc import Collection
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from loralab.errors import OutputError, SpecError
from loralab.files.drafts import is_ours
from loralab.training.config import TrainConfig


def earlier_record(
    record: Path, what: str, config: TrainConfig, free_to_change: Collection[str], own: Collection[str] = ()
) -> dict[str, Any] | None:
    """What the record of `what` (a comparison, a tuning) says, to go on with; None where the folder is new, or holds
    nothing but files of the names `own`.

    Raises OutputError for a folder that holds something else, SpecError listing how the configuration there differs.
    """
    folder = record.parent
    if not record.is_file():
        if folder.exists() and not (folder.is_dir() and _is_unused(folder, own)):
            raise OutputError(f"{folder} is not empty and holds no {what} to go on with; choose another --out")
        return None
    content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    changed = _differences(config, content["config"], free_to_change)
    if changed:
        raise SpecError(
            f"{folder} holds another {what}: {'; '.join(changed)}; give the same flags to go on with it, choose "
            "another --out, or begin anew with --overwrite"
        )
    return content


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON gives it back."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return content


def _is_unused(folder: Path, own: Collection[str]) -> bool:
    return all(is_ours(each.name) or each.name in own for each in folder.iterdir())


def _differences(config: TrainConfig, before: dict[str, Any], free_to_change: Collection[str]) -> list[str]:
    """What is not as it was. A flag that a loralab of then did not have was at its default."""
    defaults = {each.name: each.default for each in fields(config) if each.default is not MISSING}
    now, before = plain(config), json.loads(json.dumps(defaults)) | before
    return [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in dict.fromkeys((*now, *before))
        if name not in free_to_change and now.get(name) != before.get(name)
    ]
