"""The paper's storage arithmetic (§4.2 and footnote 4): many tasks as one base and an adapter each, in 16 bits."""

from dataclasses import asdict, dataclass

from loralab.methods.counts import Counts

BYTES = 2
"""Of a parameter in float16 or bfloat16."""


@dataclass(frozen=True)
class Storage:
    """Bytes on disk for a number of tasks. The heads are left out, as the paper does."""

    count: int
    """Tasks."""
    base_bytes: int
    adapter_bytes: int
    """Of one task; of full fine-tuning it is the base again."""

    @property
    def with_adapters(self) -> int:
        """One base and an adapter for each task."""
        return self.base_bytes + self.count * self.adapter_bytes

    @property
    def with_copies(self) -> int:
        """A whole model for each task."""
        return self.count * self.base_bytes

    def to_json(self) -> dict[str, int]:
        """The parts and both sums."""
        return asdict(self) | {"with_adapters": self.with_adapters, "with_copies": self.with_copies}


def storage_of(counts: Counts, tasks: int) -> Storage:
    """For as many tasks, each adapted with as many parameters."""
    return Storage(tasks, counts.base * BYTES, counts.method * BYTES)
