"""metrics.jsonl and TensorBoard events: what happened at each step, once, also over interruptions."""

import json
from pathlib import Path
from typing import Any

from loralab.extras import lacking, lazy
from loralab.files.whole import write_text
from loralab.training.folder import RunFolder

tensorboard = lazy("torch.utils.tensorboard", "board")


class Journal:
    """Appends one JSON object per line, and, where TensorBoard is installed, the same numbers as its scalars."""

    def __init__(self, folder: RunFolder, after_step: int) -> None:
        """Open for a run that goes on after `after_step`; what was written of later steps is dropped."""
        kept = [entry for entry in read_journal(folder.metrics) if entry["step"] <= after_step]
        write_text(folder.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._events: Any = None
        if not lacking("board"):
            self._events = tensorboard.SummaryWriter(str(folder.tensorboard), purge_step=after_step + 1)

    def write(self, entry: dict[str, Any]) -> None:
        """One entry: `step`, `split` and numbers by name."""
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in entry.items() if self._events is not None else ():
            if isinstance(value, (int, float)) and name != "step":
                self._events.add_scalar(f"{entry['split']}/{name}", value, entry["step"])

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every entry written so far; a last line that a killed process left unfinished is dropped."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in whole[: whole.rfind("\n") + 1].splitlines()]
