"""Checkpoints: everything a run needs to go on as if it had never stopped, in one safetensors file.

The tensors are the adapter, the optimizer's state and the random generators'; the rest (step, best so far, counts) is
JSON in the file's metadata. A file appears whole or not at all, so a process killed while saving loses nothing older.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from loralab.core.adapter import Adapter
from loralab.errors import TrainingError
from loralab.files.whole import whole_file
from loralab.training.optimizer import NamedAdamW

_NAME = re.compile(r"step-(\d{8})\.safetensors")
_BEST = "best.safetensors"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as it was read: the step it was taken after, its tensors, and the run's counts."""

    step: int
    tensors: dict[str, Tensor]
    counts: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, adapter: Adapter, optimizer: NamedAdamW, counts: dict[str, Any], keep: int
) -> None:
    """Write the state after `step`, then remove all but the newest `keep` checkpoints."""
    tensors = (
        {f"adapter/{name}": tensor for name, tensor in adapter.state_dict().items()}
        | {f"optimizer/{name}": tensor for name, tensor in optimizer.tensors().items()}
        | {f"random/{device}": state for device, state in _random_states().items()}
    )
    content = {"format": _FORMAT, "step": step, "counts": counts}
    _write(_path(folder, step), tensors, {"loralab": json.dumps(content)})
    for old in _checkpoints(folder)[:-keep]:
        old.unlink()


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
    for device, state in _under(checkpoint, "random/").items():
        if device == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)


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
    whole = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with whole_file(path) as temporary:
        temporary.write_bytes(whole)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name))


def _under(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}


def _random_states() -> dict[str, Tensor]:
    devices = {f"cuda:{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}
    return {"cpu": torch.get_rng_state(), **devices}
