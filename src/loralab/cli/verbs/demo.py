"""`loralab demo`: the whole way in minutes, with what is embedded: train, measure before and after, merge, verify.

It runs the other verbs as a user would, and prints each command before it does.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.cli.opening import say
from loralab.cli.showing import readable_bytes, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.verbs import eval as eval_verb
from loralab.cli.verbs import merge as merge_verb
from loralab.cli.verbs import train as train_verb
from loralab.cli.verbs.eval import EvalConfig
from loralab.cli.verbs.merge import MergeConfig
from loralab.cli.verbs.train import TrainVerbConfig
from loralab.files.names import TENSORS_NAME

MODEL, TASK, TARGETS = "smollm2-135m", "docstrings", "q_proj,v_proj"
STEPS, STEPS_IN_FLOAT32 = 64, 32
"""Where bfloat16 is not native a step takes up to three times as long, and 64 of them more than 5 minutes."""
SHOWN_SAMPLES = 4


@dataclass(frozen=True)
class DemoConfig:
    """The flags of `loralab demo`."""

    out: str | None = None
    """Folder for the adapter and the merged model; without it a new one, out/demo-<time>."""

    steps: int | None = None
    """Optimizer steps of the training; without it 64, or 32 where the processor has no bfloat16 products."""

    rank: int = 4
    """Rank of the adapter."""

    batch_size: int = 8
    """Examples in a batch."""

    lr: float = 2e-3
    """The learning rate at its highest."""

    limit: int = 32
    """Held-out functions to measure and to write docstrings for, before and after."""

    seed: int = 0
    """Seed of the training."""

    overwrite: bool = False
    """Replace the adapter and the model that an earlier demo wrote into --out."""


def run(config: DemoConfig) -> Answer:
    """Measure the base, train, measure the adapter, merge and compare; the answer has the figures of each."""
    started = time.monotonic()
    out = Path(config.out or time.strftime("out/demo-%Y%m%d-%H%M%S"))
    adapter, merged = out / "adapter", out / "merged"
    before = _evaluate(config, None)
    training = _training(config, adapter)
    say([_command(training)])
    trained = train_verb.run(training)
    after = _evaluate(config, adapter)
    say([f"\n$ loralab merge --model {MODEL} --adapter {adapter} --out {merged}"])
    merge = merge_verb.run(MergeConfig(model=MODEL, adapter=str(adapter), out=str(merged), overwrite=config.overwrite))
    return {
        "before": _scores(before),
        "after": _scores(after),
        "adapter_bytes": (adapter / TENSORS_NAME).stat().st_size,
        "model_bytes": sum(file.stat().st_size for file in merged.glob("*.safetensors")),
        "merge": merge,
        "adapter": adapter,
        "examples": before["examples"],
        "trainable_params": trained["trainable_params"],
        "total_params": trained["total_params"],
        "samples": [_beside(*pair) for pair in zip(before["samples"], after["samples"], strict=True)],
        "seconds": time.monotonic() - started,
    }


def _training(config: DemoConfig, adapter: Path) -> TrainVerbConfig:
    return TrainVerbConfig(
        model=MODEL,
        task=TASK,
        out=str(adapter),
        targets=TARGETS,
        rank=config.rank,
        steps=config.steps or _steps_here(),
        batch_size=config.batch_size,
        lr=config.lr,
        seed=config.seed,
        eval_limit=0,
        save_every=0,
        overwrite=config.overwrite,
    )


def _steps_here() -> int:
    """As many steps as the machine makes in about two minutes."""
    from loralab.machine import choose_device
    from loralab.models.precision import choose_dtype

    dtype, _ = choose_dtype("auto", choose_device("auto"))
    return STEPS if dtype.itemsize < 4 else STEPS_IN_FLOAT32


def _command(training: TrainVerbConfig) -> str:
    """The training as it is typed."""
    named = ("model", "task", "targets", "rank", "steps", "out")
    return "\n$ loralab train " + " ".join(f"--{name} {getattr(training, name)}" for name in named) + " …"


def _evaluate(config: DemoConfig, adapter: Path | None) -> Answer:
    named = f"--adapter {adapter} " if adapter else ""
    say([f"\n$ loralab eval --model {MODEL} {named}--task {TASK} --limit {config.limit} --generate"])
    return eval_verb.run(
        EvalConfig(
            model=MODEL,
            task=TASK,
            adapter=str(adapter) if adapter else None,
            limit=config.limit,
            generate=True,
            max_new_tokens=32,
        )
    )


def _scores(evaluation: Answer) -> dict[str, float]:
    return {"loss": evaluation["loss"], **evaluation["metrics"]}


def _beside(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": before["prompt"],
        "reference": before["references"][0],
        "before": before["prediction"],
        "after": after["prediction"],
    }


def show(answer: Answer) -> None:
    """Scores before and after, samples side by side, sizes, and the merge."""
    before, after = answer["before"], answer["after"]
    print()
    show_table(
        f"{answer['examples']} held-out functions",
        ("", "before", "after"),
        [
            ("loss, nats per target token", f"{before['loss']:.3f}", f"{after['loss']:.3f}"),
            ("ROUGE-L, of 100", f"{before['rouge_l']:.1f}", f"{after['rouge_l']:.1f}"),
        ],
    )
    show_lines("Its docstrings, beside what the library's authors wrote:", "")
    for sample in answer["samples"][:SHOWN_SAMPLES]:
        texts = {name: _one_line(sample[name]) for name in ("before", "after", "reference")}
        show_table(sample["prompt"].splitlines()[0], list(texts), [list(texts.values())], words=3, even=True)
    show_lines(*_facts(answer))


def _one_line(text: str) -> str:
    """A generated text without its line breaks."""
    return " ".join(text.split()) or "(nothing)"


def _facts(answer: Answer) -> list[str]:
    merge, adapter, model = answer["merge"], answer["adapter_bytes"], answer["model_bytes"]
    return [
        f"Adapter: {readable_bytes(adapter)} beside a model of {readable_bytes(model)} ({adapter / model:.2%}); "
        f"{answer['trainable_params']:,} of {answer['total_params']:,} parameters trained.",
        f"Merged: {merge['tensors']} tensors changed, written to {merge['out']}, reopened and compared: largest "
        f"logit error {merge['max_abs_logit_error']:.2g} (tolerance {merge['tolerance']:.2g}), mean KL "
        f"{merge['mean_kl']:.1g}, same likeliest token at {merge['argmax_agreement']:.1%} of positions.",
        f"{answer['seconds']:.0f} seconds in all. The adapter is in {answer['adapter']}.",
    ]


VERB = Verb(DemoConfig, run, show, example="loralab demo --steps 20 --limit 16", needs=("metrics",))
