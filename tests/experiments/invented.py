"""Rows of comparisons that nobody ran."""

from typing import Any

from loralab.experiments.comparison.rows import Row, spread


def row(method: str, *values: float, metric: str = "accuracy", **changes: Any) -> Row:
    """A row whose seeds 1, 2, … reached these values of the metric."""
    figures: dict[str, Any] = {
        "lr": 1e-3,
        "trainable_params": 1000,
        "head_params": 10,
        "total_params": 1_000_000,
        "tokens_per_second": 1000.0,
        "peak_memory_bytes": 1_000_000_000,
        "steps": 100,
        "seconds": 90.0,
        "metrics": {metric: spread(values)} if values else {},
        "seeds": tuple(range(1, len(values) + 1)),
    }
    return Row(method=method, **figures | changes)


def full(*values: float, **changes: Any) -> Row:
    """Full fine-tuning of a model of a million parameters."""
    return row("full", *values, **{"trainable_params": 1_000_000} | changes)


def lora(*values: float, rank: int = 4, **changes: Any) -> Row:
    """LoRA on q and v, a thousand parameters unless told otherwise."""
    return row("lora", *values, **{"rank": rank, "targets": "q,v"} | changes)
