"""The time of a training step under the methods that neighbour LoRA, as ratios to LoRA's; PEFT's DoRA beside ours.

    python -m benchmarks.neighbours --rounds 5
    python -m benchmarks.neighbours --cells out/neighbours/mrpc-*/cells --json out/neighbours/mrpc-steps.json

All contenders live in one process and take the same steps in turn, round after round: SmolLM2-135M in bfloat16, q and
v adapted unless told otherwise, batches of the docstrings task. What counts is the processor time of this one thread,
so that other work on the machine does not matter; what is reported is the median over the rounds of the ratio within a
round, and its smallest and largest.

With `--cells` the contenders are what `loralab compare` has trained there, each in its own configuration (its first
seed), and what they are divided by is plain LoRA.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from loralab.core.attach import detach
from loralab.training.base import made_fast
from loralab.training.config import TrainConfig
from loralab.training.loop import Trainee
from loralab.training.prepare import prepare

METHODS = ("lora", "dora", "pissa", "rslora", "lora-fa", "vera", "tied", "multilora", "adamix", "lora-xs")
BAR = 1.35
"""DoRA's step may take this much of LoRA's."""
Step = Callable[[int], None]


def config_of(method: str, options: argparse.Namespace, folder: str) -> TrainConfig:
    """A run of this method on the batches that all contenders see."""
    return TrainConfig(
        model="smollm2-135m",
        task="docstrings",
        out=f"{folder}/{method}",
        method=method,
        rank=256 if method == "vera" else options.rank,
        targets=options.targets,
        batch_size=options.batch_size,
        max_length=options.length,
        limit=64 * options.batch_size,
        threads=1,
        seed=0,
    )


def trained_cells(folders: Sequence[Path]) -> dict[str, TrainConfig]:
    """`mrpc-matched/lora-r8` → the configuration of its first seed, of every cell in them; plain LoRA first."""
    found: dict[str, TrainConfig] = {}
    for folder in folders:
        for path in sorted(folder.glob("*-seed-*.toml")):
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            name = f"{folder.parent.name}/{path.stem.rpartition('-seed-')[0]}"
            found.setdefault(name, replace(TrainConfig(**plain), threads=1))
    return dict(sorted(found.items(), key=lambda item: not is_plain_lora(item[1])))


def is_plain_lora(config: TrainConfig) -> bool:
    """Whether it is LoRA and nothing more."""
    return (config.method, config.init, config.lora_plus_ratio) == ("lora", "kaiming", 1.0)


def ours(config: TrainConfig, stack: ExitStack) -> Step:
    """One step of `loralab train` with this configuration."""
    run = prepare(config, "bfloat16")
    stack.enter_context(made_fast(run.loaded))
    run.trainee.model.train()
    return lambda step: take(run.trainee, step)


def take(trainee: Trainee, step: int) -> None:
    """Gradients and update of one step."""
    trainee.objective.backward(trainee.data.step(step))
    trainee.optimizer.step()
    trainee.optimizer.zero_grad(set_to_none=True)


def peers(dora: bool, options: argparse.Namespace, folder: str) -> Step:
    """The same step by PEFT's adapter in the same model, the loss taken by transformers."""
    run = prepare(config_of("lora", options, folder), "bfloat16")
    targets = [path.rpartition(".")[2] for path in run.trainee.adapter.matched]
    detach(run.loaded.model)
    settings = LoraConfig(r=options.rank, lora_alpha=16, target_modules=list(dict.fromkeys(targets)), use_dora=dora)
    model, data = get_peft_model(run.loaded.model, settings), run.trainee.data
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
        steps = contenders(options, folder, stack)
        first = next(iter(steps))
        for round_number in range(options.rounds + 1):
            seconds = {name: timed(step, round_number, options.steps) for name, step in steps.items()}
            if round_number:  # the first only warms up
                for name, each in seconds.items():
                    ratios.setdefault(name, []).append(each / seconds[first])
                print({name: round(each, 3) for name, each in seconds.items()}, file=sys.stderr)
    return {
        name: {"median": statistics.median(each), "least": min(each), "most": max(each)}
        for name, each in ratios.items()
    }


def contenders(options: argparse.Namespace, folder: str, stack: ExitStack) -> dict[str, Step]:
    """Name → its step; the first is our LoRA."""
    if options.cells:
        return {name: ours(config, stack) for name, config in trained_cells(options.cells).items()}
    steps = {name: ours(config_of(name, options, folder), stack) for name in options.methods.split(",")}
    return steps | {f"peft {name}": peers(name == "dora", options, folder) for name in ("lora", "dora")}


def timed(step: Step, round_number: int, steps: int) -> float:
    """Processor seconds of this thread for one step, over a few of them."""
    begun = time.thread_time()
    for number in range(steps):
        step(1 + round_number * steps + number)
    return (time.thread_time() - begun) / steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and one line of JSON; 1 if DoRA does not meet its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each contender in a round")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default="q,v", help="as `loralab train` takes them")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--cells", type=Path, nargs="+", help="folders of cells of `loralab compare`")
    parser.add_argument("--json", type=Path, help="write what was found to this file too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = measure(options)
    print(f"{'step time against our LoRA':28} median  least   most")
    for name, each in found.items():
        print(f"{name:28} {each['median']:6.2f} {each['least']:6.2f} {each['most']:6.2f}")
    met = "dora" not in found or found["dora"]["median"] <= BAR
    if "dora" in found:
        print(f"DoRA: {found['dora']['median']:.2f} of LoRA's step, the bar is {BAR}: {'met' if met else 'NOT met'}")
    print(json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
