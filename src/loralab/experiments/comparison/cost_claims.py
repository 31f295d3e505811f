"""The paper's claims about what LoRA costs to train, as ratios of what was measured in one comparison."""

from collections.abc import Callable

from loralab.experiments.comparison.claim import NOT_TESTED, Claim
from loralab.experiments.comparison.comparable import Comparable
from loralab.experiments.comparison.rows import Row

MEMORY_RATIO = 3.0
"""Full fine-tuning's memory ÷ LoRA's (paper §4.2: 3×, 1.2 TB → 350 GB)."""
SPEED_RATIO = 43.1 / 32.5
"""LoRA's tokens a second ÷ full fine-tuning's (paper §4.2, per V100); in time a token 24.6% less, the paper's 25%."""


def cost_claims(these: Comparable) -> list[Claim]:
    """Memory and speed of the smallest LoRA beside full fine-tuning."""
    return [
        Claim(
            name="memory",
            claim="LoRA needs a third of the memory of full fine-tuning",
            held=_held(these, lambda lora, full: _memory(full) >= MEMORY_RATIO * _memory(lora)),
            found=_found(these, _memory_found),
            paper="GPT-3 175B: 1.2 TB → 350 GB, LoRA/full 0.29 (§4.2)",
        ),
        Claim(
            name="speed",
            claim="LoRA trains 25% faster than full fine-tuning",
            held=_held(these, lambda lora, full: _speed(lora) >= SPEED_RATIO * _speed(full)),
            found=_found(these, _speed_found),
            paper="GPT-3 175B: 32.5 → 43.1 tokens/s per V100, LoRA/full 1.33, 24.6% less time (§4.2)",
        ),
    ]


def _pair(these: Comparable) -> tuple[Row, Row] | None:
    """LoRA with the fewest parameters, and full fine-tuning."""
    if these.full is None or not these.lora:
        return None
    return min(these.lora, key=lambda row: row.trainable_params or 0), these.full


def _held(these: Comparable, holds: Callable[[Row, Row], bool]) -> bool | None:
    pair = _pair(these)
    return None if pair is None else holds(*pair)


def _found(these: Comparable, say: Callable[[Row, Row], str]) -> str:
    pair = _pair(these)
    return f"{NOT_TESTED}it needs results of full and lora" if pair is None else say(*pair)


def _memory(row: Row) -> float:
    return float(row.peak_memory_bytes or 0)


def _speed(row: Row) -> float:
    return row.tokens_per_second or 0.0


def _memory_found(lora: Row, full: Row) -> str:
    ratio = _memory(lora) / _memory(full)
    return (
        f"{lora.label} peaks at {_memory(lora) / 1e6:,.0f} MB, full at {_memory(full) / 1e6:,.0f} MB: LoRA/full "
        f"{ratio:.2f}, {1 / ratio:.2f}× less (on a CPU the whole process, its libraries included)"
    )


def _speed_found(lora: Row, full: Row) -> str:
    ratio = _speed(lora) / _speed(full)
    less = f"{1 - 1 / ratio:.1%} less time" if ratio >= 1 else f"{1 / ratio - 1:.1%} more time"
    return (
        f"{lora.label} trains {_speed(lora):,.0f} tokens/s, full {_speed(full):,.0f}: LoRA/full {ratio:.2f}, "
        f"{less} a token"
    )
