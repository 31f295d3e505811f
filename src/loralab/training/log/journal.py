"""metrics.jsonl: what happened at each step, once, also over interruptions."""

import json
from pathlib import Path
from typing import Any

from loralab.files.whole import write_text
from loralab.training.folder import RunFolder
from loralab.training.log.boards import Boards


class Journal:
    """Appends one JSON object per line, and shows the same numbers on the boards."""

    def __init__(self, folder: RunFolder, after_step: int, boards: Boards | None = None) -> None:
        """Open for a run that goes on after `after_step`; what was written of later steps is dropped."""
        kept = [entry for entry in read_journal(folder.metrics) if entry["step"] <= after_step]
        write_text(folder.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = folder.metrics.open("a", encoding="utf-8")
        self.boards = boards

    def write(self, entry: dict[str, Any]) -> None:
        """One entry: `step`, `split` and numbers by name."""
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()
        if self.boards is not None:
            self.boards.entry(entry)

    def close(self) -> None:
        """The run is over."""
        self._file.close()
        if self.boards is not None:
            self.boards.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every entry written so far; a last line that a killed process left unfinished is dropped."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in whole[: whole.rfind("\n") + 1].splitlines()]
