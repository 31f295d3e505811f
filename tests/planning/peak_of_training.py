"""Run as a program in a process of its own: train as told by JSON, then print what was measured and predicted.

Its peak is that of the training steps, without the files written afterwards; VmHWM, unlike getrusage's figure, does not
start at what the parent process had.
"""

import json
import sys
from pathlib import Path

from loralab.planning.memory import estimate
from loralab.planning.shape import Workload
from loralab.training.base import made_fast
from loralab.training.config import TrainConfig
from loralab.training.loop import StepRecord, run_steps
from loralab.training.prepare import Prepared, prepare


class Onlooker:
    """Records nothing."""

    def after_step(self, record: StepRecord) -> bool:
        return True


def peak_bytes() -> int:
    """The most that this process ever had resident (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def predicted_bytes(prepared: Prepared, config: TrainConfig, steps: int) -> int:
    """From the largest batch of the steps."""
    trainee = prepared.trainee
    batches = [batch for step in range(1, steps + 1) for batch in trainee.data.step(step).batches]
    largest = max(batches, key=lambda batch: batch.input_ids.numel())
    rows, tokens = largest.input_ids.shape
    work = Workload(
        batch=rows,
        tokens=tokens,
        targets=largest.targets,
        dtype=prepared.loaded.dtype,
        gradient_checkpointing=config.gradient_checkpointing,
        training_tokens=sum(each.tokens for each in trainee.data.encoded),
    )
    return estimate(trainee.model, trainee.adapter, work).total


def main(settings: str) -> None:
    config = TrainConfig(out="unused", **json.loads(settings))
    prepared, steps = prepare(config, config.dtype), config.steps or 1
    with made_fast(prepared.loaded):
        run_steps(prepared.trainee, config, 1, steps, Onlooker())
    measured = peak_bytes()
    print(json.dumps({"measured": measured, "predicted": predicted_bytes(prepared, config, steps)}))


if __name__ == "__main__":
    main(sys.argv[1])
