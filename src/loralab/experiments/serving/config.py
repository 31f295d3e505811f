"""The settings of `bench serve`, without torch, so that `--help` is quick."""

from dataclasses import dataclass
from typing import Literal

from loralab.errors import SpecError

MIXED_RANKS = (1, 2, 4, 8, 16, 32, 64)
"""The adapters of the contender with different ranks have these in turn."""


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """One measurement of the engine."""

    model: str
    requests: int = 16
    """At once, where it is not one."""
    adapter_rank: int = 8
    prompt_tokens: int = 32
    new_tokens: int = 64
    registered: int = 1000
    """Adapters in the folder of the contender that has many; 0: it is left out."""
    compile: bool | Literal["no", "both"] = True
    """Whether the engine's kernels are compiled; both: also an engine without them."""
    rounds: int = 5
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "cpu"
    threads: int | None = None
    out: str | None = None

    def validate(self) -> None:
        """Raise one SpecError that lists everything wrong with the values, or return."""
        least = {"requests": 2, "adapter_rank": 1, "prompt_tokens": 1, "new_tokens": 2, "registered": 0, "rounds": 1}
        wrong = [f"{name} {getattr(self, name)}: at least {n}" for name, n in least.items() if getattr(self, name) < n]
        if 0 < self.registered < self.requests:
            wrong.append(f"registered {self.registered}: 0, or at least as many as requests ({self.requests})")
        if self.threads is not None and self.threads < 1:
            wrong.append(f"threads {self.threads}: at least 1")
        if wrong:
            raise SpecError("this cannot be measured: " + "; ".join(wrong))
