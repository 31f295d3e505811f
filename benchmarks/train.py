"""Training speed and memory against PEFT + transformers' Trainer: the same model, data and LoRA, in the same run.

    python -m benchmarks.train --data ../shared/data/e2e --rounds 3

The workload: E2E, SmolLM2-135M, LoRA r=4 α=32 on q and v, batch 16. Every contender runs in a process of its own (so
that its peak memory is its own), one after the other, round after round, so that whatever else the machine does hits
all of them; what counts are the ratios within a round. Tokens are real tokens (prompt and target, no padding), counted
alike for all; the first three steps are left out. `ours` is `loralab train`, as a user types it. Beside the ratios
stands its share of what the processor's products could do: 4 operations for a weight of the body and token, and for a
weight of the head and target, at the rate of the model's own shapes, which every round measures anew. That figure hangs
less on the processor than a ratio to PEFT does.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.rate import dense_shapes, product_rate, weights
from loralab.models.precision import capabilities

MODEL, RANK, ALPHA, TARGETS, BATCH, RATE = "smollm2-135m", 4, 32, "q_proj,v_proj", 16, 2e-4
UNCOUNTED_STEPS = 3
SPEED_BAR, MEMORY_BAR = 2.5, 0.65
PEERS = {"peft-bf16": True, "peft-float32": False}
"""Contender -> whether it is given the Trainer's `bf16=True`. The bar is set against the first."""

Measured = dict[str, float]


def run_peft(data: str, steps: int, limit: int, threads: int, bf16: bool) -> Measured:
    """Train with PEFT and transformers' Trainer, dynamic padding, on the very same token ids."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from loralab.models.embedded import embedded_folder
    from loralab.tasks.encoding.encode import encode_examples
    from loralab.tasks.table import open_task

    torch.set_num_threads(threads)
    folder = embedded_folder(MODEL)
    tokenizer, task = AutoTokenizer.from_pretrained(folder), open_task("e2e", data)
    encoded = encode_examples(task, task.examples("train", limit), tokenizer, 512).encoded
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = trained_by_peft(
        model, encoded, int(tokenizer.pad_token_id or 0), RANK, ALPHA,
        per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=RATE, bf16=bf16, use_cpu=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    return found | {"peak_memory_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}


def trained_by_peft(
    model: Any, encoded: Sequence[Any], pad_id: int, rank: int, alpha: int, **arguments: Any
) -> Measured:
    """Speed and last loss of PEFT's LoRA on `TARGETS` under transformers' Trainer, with these of its arguments."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    model.config.use_cache = False
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS.split(","), task_type="CAUSAL_LM")
    clock = StepClock()
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=get_peft_model(model, lora),
            args=TrainingArguments(
                output_dir=out, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
                remove_unused_columns=False, seed=0, **arguments,
            ),
            train_dataset=[{"input_ids": each.input_ids, "labels": each.labels} for each in encoded],
            data_collator=lambda rows: clock.count(pad(rows, pad_id)),
        )  # fmt: skip
        trainer.add_callback(clock.callback())
        found = trainer.train()
    return clock.measured() | {"last_loss": float(found.training_loss)}


def pad(rows: Sequence[dict[str, list[int]]], pad_id: int) -> dict[str, Any]:
    """A batch padded on the right to its longest row."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": pad_id, "labels": -100}
    batch = {
        name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
        for name, value in fill.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return batch | {"attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def run_rate(data: str, limit: int, threads: int) -> Measured:
    """The rate of the model's products at a batch, and what a token of the data cannot do without."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from loralab.models.embedded import embedded_folder
    from loralab.models.precision import DTYPES, use_fast_float32
    from loralab.tasks.encoding.encode import encode_examples
    from loralab.tasks.table import open_task

    torch.set_num_threads(threads)
    use_fast_float32()
    folder, dtype = embedded_folder(MODEL), DTYPES[machine(threads)["base"]]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    task = open_task("e2e", data)
    encoded = encode_examples(task, task.examples("train", limit), AutoTokenizer.from_pretrained(folder), 512).encoded
    tokens, targets = (sum(getattr(each, name) for each in encoded) for name in ("tokens", "targets"))
    shapes, head = dense_shapes(model), model.get_output_embeddings().weight.numel()
    return {
        "product_rate": product_rate(shapes, BATCH * tokens // len(encoded), dtype),
        "operations_per_token": 4.0 * (weights(shapes) + head * targets / tokens),
    }


class StepClock:
    """Real tokens and seconds of each of the Trainer's steps."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ends: list[float] = []

    def count(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Note a batch's real tokens as it is made (the loader is ahead of the steps, but in their order)."""
        self.tokens.append(int(batch["attention_mask"].sum()))
        return batch

    def callback(self) -> Any:
        """A Trainer callback that notes when each step ends."""
        from transformers import TrainerCallback

        ends = self.ends

        class Ends(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(time.perf_counter())

        return Ends()

    def measured(self) -> Measured:
        """Speed over the steps after the uncounted ones."""
        tokens = self.tokens[UNCOUNTED_STEPS : len(self.ends)]
        seconds = self.ends[-1] - self.ends[UNCOUNTED_STEPS - 1]
        return {
            "tokens_per_second": sum(tokens) / seconds,
            "tokens": float(sum(self.tokens[: len(self.ends)])),
            "steps": float(len(self.ends)),
        }


def measure(name: str, options: argparse.Namespace) -> Measured:
    """Run one contender in a fresh process; its own lines go to stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        command = our_command(options, folder) if name == "ours" else peer_command(name, options)
        answer = answered(command, environment)
    found: Measured = {key: float(answer[key]) for key in ("tokens_per_second", "peak_memory_bytes", "last_loss")}
    found["tokens_per_step"] = answer["tokens"] / answer["steps"]
    if name == "ours":
        rate = answered(peer_command("rate", options), environment)
        found["share"] = found["tokens_per_second"] * rate["operations_per_token"] / rate["product_rate"]
    peak = found["peak_memory_bytes"] / 1e6
    print(f"{name}: {found['tokens_per_second']:.1f} tokens/s, {peak:.0f} MB", file=sys.stderr)
    return found


def answered(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """The JSON that a command ends with."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def our_command(options: argparse.Namespace, folder: str) -> list[str]:
    """`loralab train`, as a user types it."""
    flags = {
        "model": MODEL,
        "task": "e2e",
        "data": options.data,
        "out": f"{folder}/run",
        "rank": RANK,
        "alpha": ALPHA,
        "targets": TARGETS,
        "batch-size": BATCH,
        "lr": RATE,
        "steps": options.steps,
        "limit": options.limit,
        "threads": options.threads,
        "eval-limit": 0,
    }
    pairs = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
    return [sys.executable, "-m", "loralab", "train", *pairs, "--json"]


def peer_command(name: str, options: argparse.Namespace) -> list[str]:
    """This file again, as that peer."""
    numbers = {"steps": options.steps, "limit": options.limit, "threads": options.threads}
    pairs = [text for flag, value in numbers.items() for text in (f"--{flag}", str(value))]
    return [sys.executable, "-m", "benchmarks.train", "--contender", name, "--data", options.data, *pairs]


def compare(rounds: Sequence[dict[str, Measured]]) -> dict[str, Any]:
    """Per peer the ratios of every round, as median and spread, and whether the bar is met."""
    ratios: dict[str, Any] = {}
    for peer in [name for name in rounds[0] if name != "ours"]:
        speed, memory = (
            [each["ours"][key] / each[peer][key] for each in rounds]
            for key in ("tokens_per_second", "peak_memory_bytes")
        )
        ratios[peer] = {"speed": _spread(speed), "memory": _spread(memory)}
    return ratios


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def show(rounds: Sequence[dict[str, Measured]], ratios: dict[str, Any]) -> None:
    """The table."""
    print(f"{'':14}{'tokens/s':>10}{'peak MB':>10}{'tokens/step':>13}   ours against it: speed, memory (median, range)")
    shares = [each["ours"]["share"] for each in rounds]
    print(f"ours: {statistics.median(shares):.2f} of the product rate ({min(shares):.2f}–{max(shares):.2f})")
    for name in rounds[0]:
        middle = {key: statistics.median(each[name][key] for each in rounds) for key in rounds[0][name]}
        against = "  ".join(
            f"{r['median']:.2f}× ({r['lowest']:.2f}–{r['highest']:.2f})" for r in ratios.get(name, {}).values()
        )
        print(
            f"{name:14}{middle['tokens_per_second']:10.0f}{middle['peak_memory_bytes'] / 1e6:10.0f}"
            f"{middle['tokens_per_step']:13.0f}   {against}"
        )


def machine(threads: int, asked: str = "auto") -> dict[str, Any]:
    """What it was measured on, and the precision that loralab chose there, or that was asked for."""
    import torch

    from loralab.models.precision import choose_dtype

    dtype, reason = choose_dtype(asked, torch.device("cpu"))
    return {
        "processor": str(capabilities().get("cpu_name", "unknown")),
        "threads": threads,
        "versions": {name: version(name) for name in ("loralab", "torch", "transformers", "peft")},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "base": str(dtype).removeprefix("torch."),
        "why": reason,
        "load": os.getloadavg()[0],
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(here.parent / "shared" / "data" / "e2e"), help="folder of the E2E CSVs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=13, help=f"steps a run, the first {UNCOUNTED_STEPS} not counted")
    parser.add_argument("--limit", type=int, default=4000, help="training examples")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", help="also write everything measured to this file")
    parser.add_argument("--contender", choices=(*PEERS, "rate"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 1 if the bar against the first peer is not met."""
    options = parse(arguments)
    if options.contender == "rate":
        print(json.dumps(run_rate(options.data, options.limit, options.threads)))
        return 0
    if options.contender:
        bf16 = PEERS[options.contender]
        print(json.dumps(run_peft(options.data, options.steps, options.limit, options.threads, bf16)))
        return 0
    rounds = [{name: measure(name, options) for name in ("ours", *options.peers)} for _ in range(options.rounds)]
    ratios, place = compare(rounds), machine(options.threads)
    print(f"{place['processor']}, {place['threads']} threads, torch {place['torch']}; base in {place['why']}")
    show(rounds, ratios)
    if options.json:
        content = {"machine": place, "rounds": rounds, "ratios": ratios}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    bar = ratios.get("peft-bf16")
    met = bar is None or (bar["speed"]["median"] >= SPEED_BAR and bar["memory"]["median"] <= MEMORY_BAR)
    if bar is not None:
        print(f"bar against peft-bf16 (≥ {SPEED_BAR}× speed, ≤ {MEMORY_BAR}× memory): {'met' if met else 'NOT met'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
