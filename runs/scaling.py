"""What very large models need, on paper: `loralab plan` for GPUs of 80 GB, and time from two published constants.

    python runs/scaling.py            # writes docs/results/scaling.json, from which docs/scaling.md has its table

Nothing here was measured on a GPU. Time is arithmetic plus what is gathered, one after the other: our blocks are
gathered when they are computed, not before. Arithmetic is 2 · parameters for the forward pass, as many for the backward
pass (the base's weights have no gradients) and as many again for blocks that are computed twice.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loralab.planning.config import PlanConfig
from loralab.planning.plan import PlanResult, plan

OUT = Path(__file__).resolve().parent.parent / "docs" / "results" / "scaling.json"
ROOM = 0.9
"""Of a GPU's memory: a tenth is left free, as `plan` advises."""
GPU_BYTES = 80 * 10**9
TOKENS = 2048
"""Of the one example that each GPU has in a batch."""
COUNTS = (1, 2, 4, 8, 16, 32)

PEAK = 312e12
"""Operations a second of an A100 in bfloat16, without sparsity (NVIDIA's data sheet of the A100, 80 GB)."""
REACHED = 0.52
"""Of the peak, in training of large models on A100s (Megatron-LM, arXiv 2104.04473: 163 of 312 teraFLOP/s)."""
NVLINK = 300e9
"""Bytes a second that an A100 sends to those of its machine, of up to 8 (600 GB/s both ways: the same data sheet)."""
BETWEEN = 25e9
"""Bytes a second to other machines, of every GPU: one link of 200 Gb/s each, as in NVIDIA's DGX A100."""
MACHINE = 8

MODELS = {
    "gpt3-175b": {"rank": 4, "targets": "q,v"},
    "llama-2-70b": {"rank": 16, "targets": "all-linear"},
}
WAYS: dict[str, dict[str, object]] = {
    "whole, bfloat16": {},
    "whole, `--quantize nf4`": {"quantize": "nf4"},
    "`--shard`, bfloat16": {"shard": True},
    "`--shard --quantize nf4`": {"shard": True, "quantize": "nf4"},
}


@dataclass(frozen=True)
class Scaled:
    """One model, one way, the smallest number of GPUs on which it fits, or the largest number where it fits none."""

    model: str
    way: str
    gpus: int
    fits: bool
    planned: PlanResult

    @property
    def seconds(self) -> float:
        """Of a million tokens."""
        tokens_of_batch = self.gpus * TOKENS
        arithmetic = 6 * self.planned.total_params * 1e6 / (self.gpus * PEAK * REACHED)
        speed = NVLINK if self.gpus <= MACHINE else BETWEEN
        sent = self.planned.wire.adapter_per_step + self.planned.wire.base_per_batch
        return arithmetic + sent / speed * 1e6 / tokens_of_batch

    def row(self) -> list[str]:
        """Of the table."""
        memory, wire = self.planned.memory.total / 1e9, self.planned.wire
        needed = f"{self.gpus}" if self.fits else "does not fit"
        time = f"{self.seconds / 60:.0f} min" if self.fits else "–"
        sent = [f"{size / 1e9:.2f} GB" if size else "–" for size in (wire.adapter_per_step, wire.base_per_batch)]
        return [self.model, self.way, needed, f"{memory:.1f} GB", *sent, time]


def scaled(model: str, way: str) -> Scaled:
    """The smallest number of GPUs; one where more of them do not make it smaller for each."""
    changes = WAYS[way]
    for gpus in COUNTS if "shard" in changes else (1,):
        if "shard" in changes and gpus == 1:
            continue
        settings = MODELS[model] | changes | {"gpus": gpus, "batch_size": gpus, "sequence_length": TOKENS}
        found = plan(PlanConfig(model=model, dtype="bfloat16", device="cuda", gradient_checkpointing=True, **settings))
        fits = found.memory.total <= ROOM * GPU_BYTES
        if fits:
            break
    return Scaled(model, way, gpus, fits, found)


def every() -> Iterator[Scaled]:
    """In the order of the table."""
    return (scaled(model, way) for model in MODELS for way in WAYS)


HEAD = ["model", "base", "GPUs of 80 GB", "memory of each", "gradients sent a step", "base sent a batch", "10⁶ tokens"]


def record() -> dict[str, object]:
    """The file's content."""
    return {
        "scaling": {
            "what": f"LoRA, --gradient-checkpointing, one example of {TOKENS} tokens on each GPU; a tenth left free",
            "machine": "none: plans, and constants of NVIDIA's A100",
            "recorded": "2026-12-01",
            "command": "python runs/scaling.py",
            "table": [HEAD, *(each.row() for each in every())],
        }
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(record(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {OUT.name}", file=sys.stderr)
