"""What several processes that train together must have in common, looked at before the first step."""

from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from importlib.metadata import version
from math import isclose

from loralab.core.adapter import Adapter
from loralab.errors import ProcessError, SpecError, some
from loralab.processes.group import Processes
from loralab.training.config import TrainConfig
from loralab.training.prepare import Prepared
from loralab.version import __version__

SHOWN = 12
"""Letters of a hash."""
DRIFT = 1e-3
"""Of a tensor's norm: more than rounding on processors of different kinds comes to."""


def check_started(asked: int | None, started: int) -> None:
    """Raises `SpecError` where a launcher started another number of processes than the configuration says."""
    if asked not in (None, started):
        raise SpecError(
            f"processes {asked}, and the launcher that this runs under started {started}; leave processes out there"
        )


def what_is_asked(config: TrainConfig) -> Mapping[str, str]:
    """Versions and settings: what can be compared before anything is loaded."""
    versions = {name: version(name) for name in ("torch", "transformers")} | {"loralab": __version__}
    return versions | {each.name: repr(getattr(config, each.name)) for each in fields(config)}


def make_alike(prepared: Prepared) -> None:
    """The adapter of every process becomes that of the first one, whatever it was made of: its start may be computed
    from the base or the data, and not to the same bits on every machine.

    Raises `ProcessError` where they do not see the same data, base or adapter.
    """
    adapter, processes = prepared.trainee.adapter, prepared.processes
    processes.check_alike(lambda: _what_is_loaded(prepared))
    processes.take_from_first(tensor for _, tensor in adapter.named_tensors())


def check_still_alike(adapter: Adapter, processes: Processes) -> None:
    """Raises `ProcessError` naming the tensors that are not in all processes as they are in the one that saves them."""
    if not processes.are_several:
        return
    first, *others = processes.gather(lambda: _norms(adapter))
    apart = sorted({name for own in others for name in first if not isclose(own[name], first[name], rel_tol=DRIFT)})
    if apart:
        error = ProcessError(
            f"the adapter is not the same in all {processes.count} processes now, and is not saved: {some(apart)}; "
            "the newest checkpoint goes on with --resume"
        )
        error.is_known_to_all = True
        raise error


def _norms(adapter: Adapter) -> dict[str, float]:
    return {f"{name} {list(each.shape)}": float(each.detach().float().norm()) for name, each in adapter.named_tensors()}


def _what_is_loaded(prepared: Prepared) -> Mapping[str, str]:
    """The data by the hashes of their files, the frozen base, and the form of the adapter."""
    adapter, base = prepared.trainee.adapter, prepared.base
    data = {name: found[:SHOWN] for part in prepared.data.values() for name, found in part.items()}
    shapes = repr([(name, tuple(each.shape), each.dtype) for name, each in adapter.named_tensors()])
    return data | {
        "the base": "not looked at" if base is None else base.digest,
        "the adapter's form": sha256(shapes.encode()).hexdigest()[:SHOWN],
    }
