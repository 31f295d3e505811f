"""torch's random generators as a run's own: their states taken, put back, and kept apart from those of other runs."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from loralab.processes.group import Processes


def random_states() -> dict[str, Tensor]:
    """The state of every device's generator, by `cpu` or `cuda:N`."""
    devices = {f"cuda:{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}
    return {"cpu": torch.get_rng_state(), **devices}


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Put the generators into these states."""
    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif int(device.removeprefix("cuda:")) < torch.cuda.device_count():  # the run may go on with fewer
            torch.cuda.set_rng_state(state, device)


def same_states(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether nothing was drawn between the two."""
    return one.keys() == other.keys() and all(torch.equal(one[device], other[device]) for device in one)


def draw_apart(processes: Processes, seed: int, step: int) -> None:
    """In several processes a step's random numbers are of the seed, the step and the process: no two drop out alike,
    and a resumed run draws what it would have drawn. One process draws from one stream.
    """
    if processes.are_several:
        said = hashlib.sha256(f"{seed}/{step}/{processes.index}".encode())
        torch.manual_seed(int.from_bytes(said.digest()[:7]))


class RandomStream:
    """Random numbers that go on where they stopped, whatever was drawn meanwhile."""

    def __init__(self) -> None:
        self._states: Mapping[str, Tensor] | None = None

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Within this block torch draws from this stream; afterwards from what it drew from before."""
        outside = random_states()
        if self._states is not None:
            set_random_states(self._states)
        try:
            yield
        finally:
            self._states = random_states()
            set_random_states(outside)
