"""The Unreasonable Ineffectiveness of the Deeper Layers (arXiv 2403.17887) on SmolLM2-135M: prune, then heal.

    python runs/prune_heal.py out/neighbours/prune-heal --threads 1
    python runs/prune_heal.py OUT --heal-on e2e --data ../shared/data/e2e
    python runs/prune_heal.py OUT --strategy deepest        the simple variant: the deepest blocks but the last
    python runs/prune_heal.py OUT --ranks 2,8,64            the sweep
    python runs/prune_heal.py OUT --control                 the whole model too, trained in the same way

Drops 4 of the 30 blocks, those across which the last token's state turns least, and heals what is left with LoRA on the
MLPs over an nf4 base (alpha = r, dropout 0.05, cosine), 60 steps of 4. Healed on two things: `text`, the loss on all
tokens of Python's standard library as the paper's is on all of C4, and `docstrings`, a task. Measured of each state, on
the full-precision pruned model: perplexity on held-out text, and loss and ROUGE-L on a task (docstrings; e2e where that
is healed on). Writes similarity-4.md, .json and .png. A finished step is not repeated. On one thread: 9 minutes of
processor time, which were 31 on two cores with eight processes on them.

The paper (abstract): up to about half of the layers of large models can go with little loss on question answering, but
in its later version reasoning and long generation suffer early. Recalled, not confirmed: healing takes 5,000 steps of
16 on C4, takes away the jump in the loss and hardly moves question answering; dropping the deepest blocks is poor
before and close after it. The tables and what holds here are in docs/results/deeper-layers-and-linearity.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from loralab.analysis.layers.measures import Measured, Measuring, draw_measures, measure
from loralab.analysis.layers.texts import joined, read_texts, sample_pieces
from loralab.files.whole import write_json, write_text
from loralab.formats.load import load
from loralab.models.load import load_model
from loralab.models.precision import use_fast_float32

MODEL = "smollm2-135m"
HEAL = {
    "--targets": "mlp", "--dropout": "0.05", "--lr": "1e-3", "--schedule": "cosine", "--batch-size": "4",
    "--max-length": "256", "--quantize": "nf4", "--eval-limit": "0", "--save-every": "20",
}  # fmt: skip
PIECES, CHARACTERS, PROMPT = 2000, 512, 16
"""The text to heal on: pieces of so many characters, the first few of which are the prompt and not learnt."""


def main() -> None:
    """Prune, heal, measure, and write the table."""
    arguments = parsed()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {} if arguments.threads is None else {"OMP_NUM_THREADS": str(arguments.threads)}
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tasks = arguments.heal_on.split(",")
    measured_on = "e2e" if "e2e" in tasks else "docstrings"
    measuring = Measuring(
        task=measured_on, task_data=arguments.data, pieces=32, limit=arguments.limit, max_new_tokens=32
    )
    pruned = out / f"pruned-{arguments.strategy}-{arguments.n}"
    step(pruned / "prune.json", prune, pruned, arguments)
    states: dict[str, tuple[str, Path | None]] = {"before": (MODEL, None), "after": (str(pruned), None)}
    for task in tasks:
        for rank in arguments.ranks.split(","):
            adapter = out / f"healed-{pruned.name}-{task}-r{rank}-{arguments.steps}"
            step(adapter / "healed.json", heal, str(pruned), adapter, task, rank, arguments)
            states[f"healed on {task}, r={rank}"] = (str(pruned), adapter)
        if arguments.control:
            rank = arguments.ranks.split(",")[0]
            adapter = out / f"whole-{task}-r{rank}-{arguments.steps}"
            step(adapter / "healed.json", heal, MODEL, adapter, task, rank, arguments)
            states[f"whole, trained on {task}, r={rank}"] = (MODEL, adapter)
    found = {}
    for name, (model, adapter) in states.items():
        path = (
            out
            / f"measured-{measured_on}-{arguments.limit}"
            / f"{'whole' if adapter is None and model == MODEL else (adapter or pruned).name}.json"
        )
        step(path, measure_state, path, model, adapter, measuring)
        found[name] = json.loads(path.read_text(encoding="utf-8"))
    table = out / f"{arguments.strategy}-{arguments.n}"
    write(table, found, json.loads((pruned / "prune.json").read_text(encoding="utf-8")), measured_on)


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=4, help="blocks to drop")
    parser.add_argument("--strategy", choices=("similarity", "deepest"), default="similarity")
    parser.add_argument("--heal-on", default="text,docstrings", help="some of text, docstrings, e2e")
    parser.add_argument("--data", help="the official files of e2e")
    parser.add_argument("--ranks", default="8", help="ranks of the healing, as 2,8,64")
    parser.add_argument("--steps", type=int, default=60, help="steps of each healing")
    parser.add_argument("--limit", type=int, default=64, help="examples of the task to measure on")
    parser.add_argument("--control", action="store_true", help="train the whole model in the same way too")
    parser.add_argument("--threads", type=int, help="CPU threads instead of all")
    arguments = parser.parse_args()
    if not {*arguments.heal_on.split(",")} <= {"text", "docstrings", "e2e"}:
        parser.error(f"--heal-on {arguments.heal_on}: give some of text, docstrings, e2e")
    if "e2e" in arguments.heal_on.split(",") and arguments.data is None:
        parser.error("--heal-on e2e needs --data, the folder of its official files")
    return arguments


def prune(pruned: Path, arguments: argparse.Namespace) -> None:
    """The pruned model; here it is measured as little as can be, for that comes later."""
    loralab(
        "analyse", "prune",
        **{
            "--model": MODEL, "--n": arguments.n, "--strategy": arguments.strategy, "--samples": 64, "--max-len": 256,
            "--task": "none", "--pieces": 1, "--out": pruned,
        },
    )  # fmt: skip


def heal(model: str, adapter: Path, task: str, rank: str, arguments: argparse.Namespace) -> None:
    """LoRA on the MLPs over an nf4 base; goes on from its newest checkpoint."""
    data = {"text": write_pieces, "docstrings": lambda _: None, "e2e": lambda _: arguments.data}[task](arguments.out)
    flags = HEAL | {"--model": model, "--out": adapter, "--rank": rank, "--alpha": rank, "--steps": arguments.steps}
    flags |= {"--task": "jsonl" if task == "text" else task, "--data": data, "--threads": arguments.threads}
    more = ["--resume"] if any((adapter / "checkpoints").glob("*")) else ["--overwrite"] if adapter.exists() else []
    loralab("train", *more, **flags)
    write_json(adapter / "healed.json", {"task": task, "steps": arguments.steps})


def write_pieces(out: Path) -> Path:
    """The fitting part of the library's sources as pieces, each to be gone on with after a few characters."""
    path = out / "text" / "train.jsonl"
    pieces = sample_pieces(joined(read_texts(None).fit), CHARACTERS, PIECES)
    lines = [{"prompt": piece[:PROMPT], "completion": piece[PROMPT:]} for piece in pieces if piece[PROMPT:].strip()]
    path.parent.mkdir(exist_ok=True)
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path.parent


def measure_state(path: Path, model: str, adapter: Path | None, measuring: Measuring) -> None:
    """Perplexity and the task's metrics of a model, with an adapter if one is named, in full precision."""
    loaded = load_model(model)
    if loaded.dtype == torch.float32:
        use_fast_float32()
    if adapter is not None:
        load(loaded.model, adapter)
    parameters = sum(each.numel() for each in {id(p): p for p in loaded.model.parameters()}.values())
    path.parent.mkdir(exist_ok=True)
    write_json(path, asdict(measure(loaded, measuring)) | {"parameters": parameters})


def write(table: Path, found: dict[str, dict[str, Any]], pruning: dict[str, Any], task: str) -> None:
    """The table, the numbers and the bars: files that differ in their endings."""
    title = f"{MODEL} without blocks {', '.join(map(str, pruning['removed']))} (counted from 0)"
    lines = [
        title,
        "",
        f"| state | parameters | perplexity | {task}: loss | ROUGE-L |",
        "|---|---|---|---|---|",
    ]
    for name, each in found.items():
        size = f"{each['parameters'] / 1e6:.1f} M"
        rouge = each["metrics"]["rouge_l"]
        lines.append(f"| {name} | {size} | {each['perplexity']:.2f} | {each['task_loss']:.3f} | {rouge:.1f} |")
    write_text(table.with_suffix(".md"), "\n".join(lines) + "\n")
    write_json(table.with_suffix(".json"), {"model": MODEL, "removed": pruning["removed"], "states": found})
    measures = {
        name.replace(" ", "\n"): Measured(
            each["perplexity"], each["task_loss"], {f"ROUGE-L on {task}": each["metrics"]["rouge_l"]}
        )
        for name, each in found.items()
    }
    draw_measures(measures, table.with_suffix(".png"), title)
    print(table.with_suffix(".md").read_text(encoding="utf-8"))


def step(done: Path, act: Any, *given: Any) -> None:
    """Do it unless `done` is there, and say how long it took."""
    if done.exists():
        print(f"there already: {done}", file=sys.stderr)
        return
    start = time.perf_counter()
    act(*given)
    print(f"{done}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def loralab(*words: object, **flags: object) -> None:
    """One command of loralab; its failure ends this script."""
    given = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
    status = subprocess.run([sys.executable, "-m", "loralab", *map(str, words), *given]).returncode
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
