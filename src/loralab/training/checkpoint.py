"""Checkpoints: everything a run needs to go on as if it had never stopped, in one safetensors file; and beside it the
adapter in a folder, for everything else.

The tensors are the adapter, the optimizer's state and the random generators'; the rest (step, best so far, counts) is
JSON in the file's metadata. A file appears whole or not at all, so a process killed while saving loses nothing older.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor

from loralab.core.adapter import Adapter
from loralab.errors import TrainingError
from loralab.files.drafts import remove
from loralab.files.names import RUN_NAME
from loralab.files.whole import whole_file
from loralab.formats.checkpoints import BEST, step_name
from loralab.formats.fingerprint import Fingerprint
from loralab.formats.save import base_print, write_adapter
from loralab.models.load import LoadedModel
from loralab.training.chance import random_states, set_random_states
from loralab.training.optimizer import NamedAdamW

_NAME = re.compile(r"step-(\d{8})\.safetensors")
_BEST = f"{BEST}.safetensors"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as it was read: the step it was taken after, its tensors, and the run's counts."""

    step: int
    tensors: dict[str, Tensor]
    counts: dict[str, Any]


@dataclass
class AdapterWriter:
    """Writes the adapter of a run, as it is now, into folders of their own: whatever takes an adapter takes these."""

    run: Path
    adapter: Adapter
    loaded: LoadedModel
    base: Fingerprint | None = None
    """Of the frozen base, which stays the same: taken once."""

    def write(self, folder: Path, name: str) -> None:
        """The adapter, its tokenizer and what the run was, below `folder`."""
        self.base = base_print(self.adapter, self.loaded.model) if self.base is None else self.base
        write_adapter(
            self.adapter,
            folder / name,
            model=self.loaded.model,
            tokenizer=self.loaded.processor,
            base=self.base,
            beside={RUN_NAME: (self.run / RUN_NAME).read_text(encoding="utf-8")},
        )


def save_checkpoint(
    folder: Path, step: int, adapter: Adapter, optimizer: NamedAdamW, counts: dict[str, Any], keep: int
) -> None:
    """Write the state after `step`, then remove all but the newest `keep` checkpoints."""
    tensors = (
        {f"adapter/{name}": tensor for name, tensor in adapter.state_dict().items()}
        | {f"optimizer/{name}": tensor for name, tensor in optimizer.tensors().items()}
        | {f"random/{device}": state for device, state in random_states().items()}
    )
    content = {"format": _FORMAT, "step": step, "counts": counts}
    _write(_path(folder, step), tensors, {"loralab": json.dumps(content)})
    for old in _checkpoints(folder)[:-keep]:
        remove(old.with_suffix(""))
        remove(old)


def is_saved(folder: Path, step: int) -> bool:
    """Whether there is a checkpoint of this step."""
    return _path(folder, step).is_file()


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint of the highest step, or None if there is none; raises TrainingError if it cannot be read."""
    paths = _checkpoints(folder)
    return _read(paths[-1]) if paths else None


def restore(checkpoint: Checkpoint, adapter: Adapter, optimizer: NamedAdamW) -> None:
    """Put adapter, optimizer and random generators into the state of the checkpoint."""
    adapter.load_state_dict(_under(checkpoint, "adapter/"))
    optimizer.restore(_under(checkpoint, "optimizer/"))
    set_random_states(_under(checkpoint, "random/"))


def save_best(folder: Path, adapter: Adapter) -> None:
    """Remember the adapter as it is now as the best so far."""
    _write(folder / _BEST, adapter.state_dict(), {})


def restore_best(folder: Path, adapter: Adapter) -> None:
    """Bring the best adapter back."""
    with safe_open(folder / _BEST, "pt") as file:
        adapter.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def _read(path: Path) -> Checkpoint:
    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {})["loralab"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as problem:
        raise TrainingError(
            f"the checkpoint {path} cannot be read ({problem}); remove it to resume from the one before"
        ) from problem
    return Checkpoint(content["step"], tensors, content["counts"])


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    whole = as_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with whole_file(path) as temporary:
        temporary.write_bytes(whole)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step_name(step)}.safetensors"


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name))


def _under(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
