"""Where a process stands among those that torchrun, or another launcher, started: what its environment says.

Loads no torch.
"""

import os
from dataclasses import dataclass

from loralab.errors import LoralabError

_USUAL = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}


@dataclass(frozen=True)
class ProcessPlace:
    """This process among them; alone where there are no others."""

    index: int
    count: int
    local_index: int
    """Among those of its machine."""

    @classmethod
    def here(cls) -> "ProcessPlace":
        """What is no number counts as not said."""
        said = ((os.environ.get(name, ""), usual) for name, usual in _USUAL.items())
        return cls(*(int(value) if value.isdecimal() else usual for value, usual in said))

    def says(self, error: LoralabError) -> bool:
        """Whether an error is this process's to say: the first one says what all meet, and others what only they do."""
        return self.index == 0 or (error.is_known_to_all is False and not error.is_of_a_lost_process)


def is_started_by_launcher() -> bool:
    """Whether this process is one of a run's already."""
    return "WORLD_SIZE" in os.environ
