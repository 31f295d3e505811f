"""What a measurement of latency found."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from loralab.experiments.latency.contenders import LORA_DEPLOYED, LORA_MERGED
from loralab.experiments.latency.operators import OperatorCount
from loralab.experiments.latency.rows import Noise, Row


@dataclass(frozen=True)
class Machine:
    """What it was measured on."""

    processor: str
    threads: int
    torch: str
    load: float
    """Runnable processes per minute when it began: above the threads, others were at work too."""

    @property
    def threads_text(self) -> str:
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Latency:
    """The table, and what it is worth."""

    model: str
    random_weights: bool
    dtype: str
    machine: Machine
    rounds: int
    repeats: int
    operators_at: str
    """The setting in which operators were counted."""
    operators: dict[str, OperatorCount]
    """By contender and size, each beside the base's."""
    rows: tuple[Row, ...]
    noise: tuple[Noise, ...]
    """A row per setting."""
    files: tuple[str, ...] = field(default=())

    @property
    def merged_operations_equal(self) -> bool:
        """Whether merged LoRA, attached and deployed, executes the base's very operators on tensors of its layout."""
        merged = [each for name, each in self.operators.items() if name.split()[0] in (LORA_MERGED, LORA_DEPLOYED)]
        return all(each.equal for each in merged)

    @property
    def merged_within_noise(self) -> bool | None:
        """Whether in every setting merged LoRA cannot be told from the base timed against itself (None: not judged)."""
        return _all(each.merged_within for each in self.noise)

    @property
    def deployed_within_noise(self) -> bool | None:
        """The same of merged weights in plain modules."""
        return _all(each.deployed_within for each in self.noise)


def as_answer(latency: Latency) -> dict[str, Any]:
    """All of it as JSON has it, with the verdicts; the machine's entries are beside the others."""
    content: dict[str, Any] = asdict(latency)
    machine = content.pop("machine")
    verdicts = {
        name: getattr(latency, name)
        for name in ("merged_operations_equal", "merged_within_noise", "deployed_within_noise")
    }
    return {**content, **machine, **verdicts}


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    return None if None in found else all(found)
