"""The settings of `bench latency`, without torch, so that `--help` is quick."""

import re
from dataclasses import dataclass, field
from typing import Literal

from loralab.errors import SpecError

LARGEST = 10**6
"""No batch, sequence or number of passes is larger than this; what is, was mistyped."""


@dataclass(frozen=True, order=True)
class InputSize:
    """The size of the input of one forward pass."""

    batch: int
    """Sequences."""
    sequence: int
    """Tokens of each."""

    def __str__(self) -> str:
        return f"{self.batch}x{self.sequence}"

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """One measurement of a forward pass: the paper's Table 1, and the grid of its Appendix B."""

    model: str = field(metadata={"group": "latency"})
    """A preset with random weights (gpt2-medium, roberta-base, …), an embedded name (smollm2-135m, minilm-l6), a local
    folder, or a Hub id."""

    random: bool = field(default=False, metadata={"group": "latency"})
    """Give any model random weights: config.json is then enough, and latency does not depend on their values."""

    settings: tuple[str, ...] = field(default=("4x128", "2x64", "1x128"), metadata={"group": "latency"})
    """Batch × sequence settings. The defaults suit a laptop; the paper's Table 1 has 32x512,16x256,1x128."""

    batches: tuple[int, ...] = field(default=(), metadata={"group": "latency"})
    """Batches of a grid, measured as well; the paper's Figure 5 has 1,2,4,8,16,32."""

    sequences: tuple[int, ...] = field(default=(), metadata={"group": "latency"})
    """Sequence lengths of the grid; the paper's Figure 5 has 128,256,512."""

    sizes: tuple[int, ...] = field(default=(10, 100, 250), metadata={"group": "latency"})
    """Bottleneck sizes of Adapter-H and Adapter-L; the defaults are those of Figure 5."""

    rank: int = field(default=4, metadata={"group": "latency"})
    """Rank of LoRA, on the queries and values of the model's family."""

    rounds: int = field(default=7, metadata={"group": "latency"})
    """How often every contender is measured, in another order each time; ratios are taken within a round."""

    repeats: int = field(default=3, metadata={"group": "latency"})
    """Timed passes of a contender in a round, after one untimed; the median counts."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(default="auto", metadata={"group": "latency"})
    """Precision of the model; auto is bfloat16 where the processor multiplies it natively."""

    device: str = field(default="cpu", metadata={"group": "latency"})
    """Where to compute: auto (the accelerator that torch finds), cpu, cuda, cuda:N, mps or xpu."""

    threads: int | None = field(default=None, metadata={"group": "latency"})
    """Threads of torch; without it as many as torch chooses."""

    out: str | None = field(default=None, metadata={"group": "latency"})
    """A folder for latency.json, latency.md and latency.png."""

    def validate(self) -> None:
        """Raise one SpecError that lists everything wrong with the values, or return."""
        problems = [*_wrong_settings(self.settings), *_wrong_counts(self)]
        if bool(self.batches) != bool(self.sequences):
            problems.append("a grid has both batches and sequences; give the other one too")
        if not self.settings and not self.batches:
            problems.append("there are no settings; name some like 1x128, or a grid by batches and sequences")
        if not self.sizes:
            problems.append("sizes is empty; name bottleneck sizes, like 10,100,250")
        if problems:
            raise SpecError("this latency cannot be measured: " + "; ".join(problems))

    def all_settings(self) -> list[InputSize]:
        """Those named, then the rest of the grid, each once."""
        named = [InputSize(*map(int, text.lower().split("x"))) for text in self.settings]
        grid = [InputSize(batch, sequence) for sequence in self.sequences for batch in self.batches]
        return list(dict.fromkeys([*named, *grid]))


def _wrong_settings(settings: tuple[str, ...]) -> list[str]:
    wrong = [text for text in settings if not re.fullmatch(r"[1-9]\d{0,5}[xX][1-9]\d{0,5}", text)]
    return [f"setting {text!r}: write batch and sequence like 16x256, both from 1" for text in wrong]


def _wrong_counts(config: LatencyConfig) -> list[str]:
    counts: dict[str, tuple[int, ...]] = {name: (getattr(config, name),) for name in ("rank", "rounds", "repeats")}
    counts |= {name: getattr(config, name) for name in ("sizes", "batches", "sequences")}
    counts["threads"] = () if config.threads is None else (config.threads,)
    return [
        f"{name} {value}: it must be a whole number from 1 to {LARGEST:,}"
        for name, values in counts.items()
        for value in values
        if not 1 <= value <= LARGEST
    ]
