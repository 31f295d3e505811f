"""The time of a training step under the methods that neighbour LoRA, as ratios to LoRA's; PEFT's DoRA beside ours.

    python -m benchmarks.neighbours --rounds 5

All contenders live in one process and take the same steps in turn, round after round: SmolLM2-135M in bfloat16, LoRA's
targets q and v, batches of the docstrings task. What counts is the processor time of this one thread, so that other
work on the machine does not matter; what is reported is the median over the rounds of the ratio within a round, and
its smallest and largest.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch

from loralab.training.config import TrainConfig
from loralab.training.loop import Trainee, accumulate_gradients
from loralab.training.prepare import made_fast, prepare

METHODS = ("lora", "dora", "pissa", "rslora", "lora-fa", "vera", "tied", "multilora", "adamix", "lora-xs")
BAR = 1.35
"""DoRA's step may take this much of LoRA's."""
Step = Callable[[int], None]


def ours(method: str, options: argparse.Namespace, folder: str, stack: ExitStack) -> Step:
    """One step of `loralab train` with this method."""
    config = TrainConfig(
        model="smollm2-135m",
        task="docstrings",
        out=f"{folder}/{method}",
        method=method,
        rank=256 if method == "vera" else options.rank,
        batch_size=options.batch_size,
        max_length=options.length,
        limit=64 * options.batch_size,
        threads=1,
        seed=0,
    )
    prepared = prepare(config, "bfloat16")
    stack.enter_context(made_fast(prepared))
    trainee = prepared.trainee
    trainee.model.train()
    return lambda step: take(trainee, step)


def take(trainee: Trainee, step: int) -> None:
    """Gradients and update of one step."""
    accumulate_gradients(trainee, trainee.data.step(step))
    trainee.optimizer.step()
    trainee.optimizer.zero_grad(set_to_none=True)


def peers(dora: bool, options: argparse.Namespace, folder: str, stack: ExitStack) -> Step:
    """The same step by PEFT's adapter in the same model, the loss taken by transformers."""
    from peft import LoraConfig, get_peft_model

    config = TrainConfig(
        model="smollm2-135m",
        task="docstrings",
        out=f"{folder}/peft",
        batch_size=options.batch_size,
        max_length=options.length,
        limit=64 * options.batch_size,
        threads=1,
        seed=0,
    )
    prepared = prepare(config, "bfloat16")
    data = prepared.trainee.data
    from loralab.core.attach import detach

    detach(prepared.loaded.model)
    settings = LoraConfig(r=options.rank, lora_alpha=16, target_modules=["q_proj", "v_proj"], use_dora=dora)
    model = get_peft_model(prepared.loaded.model, settings)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)

    def step_of(step: int) -> None:
        for batch in data.step(step).batches:
            model(**batch.inputs, labels=batch.labels, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step_of


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Contender → the median, smallest and largest ratio of its step's processor time to our LoRA's."""
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        steps = {f"peft {name}": peers(name == "dora", options, folder, stack) for name in ("lora", "dora")}
        steps |= {name: ours(name, options, folder, stack) for name in options.methods.split(",")}
        for round_number in range(options.rounds + 1):
            seconds = {name: timed(step, round_number, options.steps) for name, step in steps.items()}
            if round_number:  # the first only warms up
                for name, each in seconds.items():
                    ratios.setdefault(name, []).append(each / seconds["lora"])
                print({name: round(each, 3) for name, each in seconds.items()}, file=sys.stderr)
    return {
        name: {"median": statistics.median(each), "least": min(each), "most": max(each)}
        for name, each in ratios.items()
    }


def timed(step: Step, round_number: int, steps: int) -> float:
    """Processor seconds of this thread for one step, over a few of them."""
    begun = time.thread_time()
    for number in range(steps):
        step(1 + round_number * steps + number)
    return (time.thread_time() - begun) / steps


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each contender in a round")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options)
    print(f"{'step time against our LoRA':28} median  least   most")
    for name, each in found.items():
        print(f"{name:28} {each['median']:6.2f} {each['least']:6.2f} {each['most']:6.2f}")
    if "dora" in found:
        print(f"DoRA: {found['dora']['median']:.2f} of LoRA's step, the bar is {BAR}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
