"""Processor time of a decoding step by torch's operations, and with the kernels that `loralab serve` compiles.

    python -m benchmarks.compiled --json benchmarks/results/compiled.json

SmolLM2-135M on one thread: one row, rows of the base, and rows that are each answered by an adapter of their own (rank
8 on q, k, v and o), behind texts of some lengths. Both decoders run in one process on caches of the same texts and take
turns; what counts are the ratios within a round, of processor time, which other processes do not add to.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.train import machine
from loralab.models.load import load_model
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.cache import RowCache
from loralab.serving.engine.decoder import Chunk
from loralab.serving.engine.fused.decoder import FusedDecoder
from loralab.serving.engine.fused.trial import decoder_for

MODEL, RANK, PROJECTIONS = "smollm2-135m", 8, ("q_proj", "k_proj", "v_proj", "o_proj")
STEPS = 6
"""In a row, of each way in each round."""


@dataclass(frozen=True)
class Workload:
    """Rows that decode behind texts of so many tokens."""

    rows: int
    tokens: int
    mixed: bool

    @property
    def name(self) -> str:
        """As the table has it."""
        who = "one row" if self.rows == 1 else f"{self.rows} rows" + (f", {self.rows} adapters" if self.mixed else "")
        return f"{who}, {self.tokens} tokens each"


def workloads(rows: int, tokens: Sequence[int]) -> list[Workload]:
    """One row, and so many of the base and of adapters, behind each length."""
    return [
        Workload(count, length, mixed)
        for length in tokens
        for count, mixed in ((1, False), (rows, False), (rows, True))
    ]


def measure(decoders: Mapping[str, FusedDecoder], workload: Workload, columns: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step both ways, and their ratio within each round."""
    adapters = [f"a{row}" if workload.mixed else None for row in range(workload.rows)]
    caches = {name: filled(decoder, workload, columns) for name, decoder in decoders.items()}
    milliseconds: dict[str, list[float]] = {name: [] for name in decoders}
    for number in range(rounds + 1):
        for name in list(decoders)[:: 1 if number % 2 else -1]:
            milliseconds[name].append(min(steps(decoders[name], caches[name], adapters)))
    pairs = zip(milliseconds["eager"][1:], milliseconds["compiled"][1:], strict=True)  # the first round warms up
    ratios = [eager / compiled for eager, compiled in pairs]
    return {
        **{name: statistics.median(each[1:]) for name, each in milliseconds.items()},
        "ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
    }


def filled(decoder: FusedDecoder, workload: Workload, columns: int) -> RowCache:
    """A cache of that many texts."""
    cache = RowCache(max(2, workload.rows), columns)
    for row in range(workload.rows):
        text = DynamicCache()
        decoder.read([Chunk([(7 * place + row) % 1000 + 5 for place in range(workload.tokens)], None, text)])
        cache.join(text.layers)  # type: ignore[arg-type]
    return cache


def steps(decoder: FusedDecoder, cache: RowCache, adapters: Sequence[str | None]) -> Iterator[float]:
    """Milliseconds of processor time of each of some steps, after which the cache is as it was."""
    for number in range(STEPS):
        begun = time.process_time()
        decoder.logits([5 + number] * len(adapters), adapters, cache)
        yield 1000 * (time.process_time() - begun)
        cache.advance()
    cache.now -= STEPS


def drawn_pairs(model: PreTrainedModel) -> Pairs:
    """Of an adapter that does something."""
    weights = {path: each.weight for path, each in model.named_modules() if path.endswith(PROJECTIONS)}
    return {
        path: (drawn(weight, RANK, weight.shape[1]), drawn(weight, len(weight), RANK))
        for path, weight in weights.items()
    }


def drawn(like: Tensor, *shape: int) -> Tensor:
    """Small numbers."""
    return 0.02 * torch.randn(shape).to(like)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 400])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", help="also write everything measured to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 1 where nothing is compiled, or any step is slower."""
    options = parse(arguments)
    torch.set_num_threads(1)
    loaded = load_model(MODEL, kind="generation", dtype=options.dtype)
    columns, decoders = max(options.tokens) + 64, {}
    with torch.inference_mode():
        for name in ("eager", "compiled"):
            decoder = decoder_for(loaded.model, options.rows, columns, compile=name == "compiled")
            print(decoder.how)
            if not isinstance(decoder, FusedDecoder) or decoder.is_compiled != (name == "compiled"):
                return 1
            decoders[name] = decoder
        for row in range(options.rows):
            pairs = drawn_pairs(loaded.model)
            for decoder in decoders.values():
                decoder.bank.put(f"a{row}", pairs)
        found = {
            workload.name: measure(decoders, workload, columns, options.rounds)
            for workload in workloads(options.rows, options.tokens)
        }
    for name, each in found.items():
        low, high = each["ratio"]["lowest"], each["ratio"]["highest"]
        times = f"{each['eager']:6.1f} ms {each['compiled']:6.1f} ms"
        print(f"{name:36} {times}  {each['ratio']['median']:.2f}× ({low:.2f}–{high:.2f})")
    if options.json:
        content = {
            "machine": machine(1) | {"base": options.dtype},
            "how": {name: decoder.how for name, decoder in decoders.items()},
            "steps": found,
        }
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if all(each["ratio"]["median"] >= 1 for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
