"""Runs side by side on one base against the same runs one after another: speed in steps, and memory.

    python -m benchmarks.tune --data ../shared/data/e2e --batch-size 2
    python -m benchmarks.tune --data ../shared/data/e2e --batch-size 16

The workload: E2E, SmolLM2-135M, LoRA r=8 on q and v, as `tune` has it: rates × seeds. Both contenders are of one
process and take the same runs on, in turn, round after round: `one after another` makes the next steps of each run
before those of the next, as `train` does; `side by side` makes one step of all, the way that the first steps showed to
be faster. What counts are the ratios within a round. Beside it: the peak memory of the process, and what was predicted.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from loralab.machine import peak_memory_bytes
from loralab.training.base import made_fast
from loralab.training.config import TrainConfig
from loralab.training.interrupt import interruptible
from loralab.training.together.passes import MEASURED_STEPS
from loralab.training.together.progress import SharedProgress
from loralab.training.together.side_by_side import SideBySide
from loralab.training.together.train import ground_of

RATES = (1.5e-4, 5e-4, 1.5e-3, 5e-3)
BARS = {2: 1.3, 16: 1.0}
"""Batch size -> how many times as fast side by side has to be."""


def main(words: list[str] | None = None) -> int:
    """Measure; exit status 1 where it is below its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/e2e")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of every run, by each contender in a round")
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(configs_of(arguments, Path(folder)), arguments.rounds, arguments.steps)
    print(json.dumps({"batch_size": arguments.batch_size} | found))
    bar = BARS.get(arguments.batch_size, 0.0)
    return int(statistics.median(found["ratios"]) < bar)


def configs_of(arguments: argparse.Namespace, folder: Path) -> list[TrainConfig]:
    """A run for every rate and seed."""
    steps = 1 + MEASURED_STEPS + 2 * arguments.rounds * arguments.steps
    return [
        TrainConfig(
            model="smollm2-135m", task="e2e", data=arguments.data, limit=800, batch_size=arguments.batch_size, rank=8,
            targets="q,v", lr=lr, seed=seed, steps=steps, eval_limit=0, save_every=0, samples=0,
            dtype=arguments.dtype, out=str(folder / f"{lr}-{seed}"),
        )
        for seed in range(1, arguments.seeds + 1)
        for lr in RATES
    ]  # fmt: skip


def measure(configs: list[TrainConfig], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of both in every round, the ratios, and bytes."""
    ground = ground_of(configs)
    with interruptible() as interruption, SharedProgress() as progress, made_fast(ground.draft.loaded):
        together = SideBySide(ground, interruption, progress.say)
        for number, config in enumerate(configs):
            together.add(config, f"run-{number}", progress.lane(f"run {number}"))
        together.begin()
        predicted = together.forecast()
        together.advance(1 + MEASURED_STEPS)
        apart, beside = [], []
        for _ in range(rounds):
            apart.append(seconds_of(lambda: one_after_another(together, steps)))
            beside.append(seconds_of(lambda: side_by_side(together, steps)))
            print(f"{apart[-1]:.1f} s one after another, {beside[-1]:.1f} s side by side", file=sys.stderr, flush=True)
        together.close()
    ratios = [one / other for one, other in zip(apart, beside, strict=True)]
    return {
        "one_after_another": apart, "side_by_side": beside, "ratios": ratios,
        "peak_memory_bytes": [peak_memory_bytes(together.model.device)],
        "predicted_bytes": [predicted.total if predicted else 0],
    }  # fmt: skip


def one_after_another(together: SideBySide, steps: int) -> None:
    """The next steps of each run, before those of the next."""
    for member in together.running:
        with together.turn(member) as run:
            run.advance(run.step + steps)


def side_by_side(together: SideBySide, steps: int) -> None:
    """The next steps of all."""
    first = together.running[0].run
    assert first is not None
    together.advance(first.step + steps)


def seconds_of(act: Callable[[], None]) -> float:
    """How long it takes."""
    started = perf_counter()
    act()
    return perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
