"""LoRA's neighbours beside LoRA and full fine-tuning on one task, 3 seeds: one table and one plot.

    python runs/neighbours.py mrpc ../shared/data/glue out/neighbours
    python runs/neighbours.py rte ../shared/data/glue out/neighbours
    python runs/neighbours.py cola ../shared/data/glue out/neighbours
    python runs/neighbours.py e2e ../shared/data/e2e out/neighbours --seeds 1
    python runs/neighbours.py docstrings - out/neighbours

    python -m benchmarks.neighbours --cells out/neighbours/mrpc-{matched,full,vera}/cells … \\
      --json out/neighbours/mrpc-steps.json                     the steps' times, for the table

Methods whose size can be chosen get the trainable parameters of LoRA r=8 on q and v; VeRA, AdaMix and the optimizers
of the whole model cannot be, and have the size that the comparison says. Learning rates are one per method, set
beforehand and tuned for none. It was not run as a whole yet. Every comparison goes on where it was interrupted. It
takes about 100 minutes on one thread for MRPC, judged by trainings that were timed; with `--threads 1` two tasks run
side by side.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Flags = dict[str, str]

BUDGETS = {"minilm-l6": "73728", "smollm2-135m": "460800"}
"""Of LoRA r=8 on q and v."""
RATES = {
    "lora": 1e-3,
    "full": 1e-4,
    "rslora": 1e-3,
    "dora": 1e-3,
    "pissa": 5e-4,
    "lora-fa": 2e-3,
    "tied": 1e-3,
    "multilora": 1e-3,
    "lora-xs": 4e-3,
    "vera": 1e-2,
    "adamix": 1e-3,
    "adamix-adapter": 1e-3,
    "grass": 2e-4,
    "galore": 2e-4,
}
PUBLISHED = {
    "dora": "LLaMA-7B, 8 commonsense tasks: 78.4, LoRA 74.7 (its Table 1)",
    "pissa": "GSM8K, LLaMA-2-7B: 53.22, LoRA 43.23 (its Table 2)",
    "vera": "GLUE, RoBERTa-large: 87.8 with 0.061M, LoRA 87.8 with 0.8M",
    "tied": "translation BLEU 41.33 with 12.5% of the parameters, LoRA 41.30",
    "multilora": "better than LoRA on mixed tasks at 2.5% of the parameters (abstract)",
    "adamix": "better than full fine-tuning with 0.1–0.2% of the parameters (abstract)",
    "adamix-adapter": "better than full fine-tuning with 0.1–0.2% of the parameters (abstract)",
    "grass": "as good as full-rank pretraining at less memory (abstract)",
}


@dataclass(frozen=True)
class Comparison:
    """One call of `loralab compare`."""

    name: str
    flags: Flags
    prefix: str = ""
    """What the table puts before the method's name."""


def of(*methods: str) -> Flags:
    """The flags that compare these methods, each at its own learning rate."""
    rates = ",".join(f"{method}={RATES[method]}" for method in methods)
    return {"--methods": ",".join(methods), "--method-lr": rates}


COMPARISONS = (
    Comparison("matched", of("lora", "rslora", "dora", "pissa", "lora-fa", "tied", "multilora", "lora-xs")),
    Comparison("full", of("full")),
    Comparison("vera", {**of("vera"), "--rank": "1024"}),
    Comparison("adamix", {**of("adamix"), "--rank": "8", "--experts": "4"}),
    Comparison("adamix-adapter", {**of("adamix-adapter"), "--size": "16", "--experts": "4"}),
    Comparison("eva", {**of("lora"), "--init": "eva"}, "eva: "),
    Comparison("lora-plus", {**of("lora"), "--lr": "3e-4", "--method-lr": "", "--lora-plus-ratio": "16"}, "LoRA+: "),
    Comparison("projected", {**of("grass", "galore"), "--rank": "64", "--refresh-every": "100"}),
)
GLUE: Flags = {"--model": "minilm-l6", "--max-length": "128", "--eval-limit": "100000", "--epochs": "2"}
TASKS: dict[str, Flags] = {
    "mrpc": {**GLUE, "--task": "glue/mrpc", "--batch-size": "16", "--best-metric": "accuracy"},
    "rte": {
        **GLUE,
        "--task": "glue/rte",
        "--batch-size": "16",
        "--best-metric": "accuracy",
        "--epochs": "1",
    },
    "cola": {**GLUE, "--task": "glue/cola", "--batch-size": "32", "--best-metric": "matthews", "--epochs": "3"},
    "e2e": {
        "--model": "smollm2-135m",
        "--task": "e2e",
        "--max-length": "256",
        "--batch-size": "8",
        "--steps": "60",
        "--eval-limit": "256",
    },
    "docstrings": {
        "--model": "smollm2-135m",
        "--task": "docstrings",
        "--max-length": "256",
        "--batch-size": "8",
        "--steps": "60",
        "--eval-limit": "128",
    },
}
METRICS = {"mrpc": "accuracy", "rte": "accuracy", "cola": "matthews", "e2e": "loss", "docstrings": "loss"}


def main() -> None:
    """Run the comparisons of one task, and put their rows into one table and one plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", help="the GLUE root folder, that of E2E, or - for docstrings")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=[each.name for each in COMPARISONS], help="one of the comparisons")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--threads", help="CPU threads of a training instead of all")
    arguments = parser.parse_args()
    for comparison in COMPARISONS:
        if arguments.only in (None, comparison.name):
            run(comparison, arguments)
    rows = gathered(arguments.out, arguments.task)
    metric = METRICS[arguments.task]
    text = table(rows, metric, read_steps(arguments.out / f"{arguments.task}-steps.json"))
    (arguments.out / f"{arguments.task}.md").write_text(text, encoding="utf-8")
    (arguments.out / f"{arguments.task}.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    plot(rows, metric, arguments.task, arguments.out / f"{arguments.task}.png")
    print(text)


def run(comparison: Comparison, arguments: argparse.Namespace) -> None:
    """`loralab compare`; its failure ends this script."""
    task = TASKS[arguments.task]
    budget = {"--match-params": BUDGETS[task["--model"]]} if comparison.name == "matched" else {}
    place = {
        "--data": "" if arguments.data == "-" else arguments.data,
        "--out": str(arguments.out / f"{arguments.task}-{comparison.name}"),
        "--threads": arguments.threads or "",
        "--seeds": arguments.seeds,
        "--save-every": "0",
    }
    words = [
        word for flag, value in (task | budget | comparison.flags | place).items() if value for word in (flag, value)
    ]
    status = subprocess.run([sys.executable, "-m", "loralab", "compare", *words]).returncode
    if status:
        raise SystemExit(status)


def gathered(out: Path, task: str) -> list[dict[str, Any]]:
    """The rows of all comparisons that are there, with a cell of each and the bytes that its adapter takes on disk."""
    rows = []
    for comparison in COMPARISONS:
        folder = out / f"{task}-{comparison.name}"
        if not (folder / "results.json").is_file():
            continue
        for row in json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]:
            label = comparison.prefix + row["label"]
            rows.append(row | {"label": label, **stored(folder, row)})
    return rows


def stored(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """One of the method's adapters: where it is, without its seed, and the bytes of its tensor file."""
    runs = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("cells/*/run.json")}
    first = min(path for path, run in runs.items() if run["config"]["method"] == row["method"])
    cell, _, _ = first.name.rpartition("-seed-")
    return {"cell": f"{folder.name}/{cell}", "stored_bytes": (first / "adapter_model.safetensors").stat().st_size}


def read_steps(path: Path) -> dict[str, float]:
    """Comparison/cell → its step's time over LoRA's, where `benchmarks.neighbours --cells` has measured it."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: each["median"] for name, each in found.items()}


def table(rows: list[dict[str, Any]], metric: str, steps: dict[str, float]) -> str:
    """Markdown."""
    lines = [
        f"| method | trained | stored MB | {metric} | step ÷ LoRA's | peak MB | published |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        found = row["metrics"][metric]
        spread = f" ± {found['sd']:.2f}" if found["n"] > 1 else ""
        cells = (
            row["label"],
            f"{row['trainable_params']:,}",
            f"{row['stored_bytes'] / 1e6:.2f}",
            f"{found['mean']:.2f}{spread}",
            f"{steps[row['cell']]:.2f}" if row["cell"] in steps else "",
            f"{row['peak_memory_bytes'] / 1e6:,.0f}",
            PUBLISHED.get(row["method"], ""),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], metric: str, task: str, path: Path) -> None:
    """The metric of each method, the best on top, its spread over the seeds as a bar; beside it what it trains."""
    ordered = sorted(rows, key=lambda row: row["metrics"][metric]["mean"] * (-1 if metric == "loss" else 1))
    places = range(len(ordered))
    figure = Figure(figsize=(9, 1 + 0.32 * len(ordered)), layout="constrained")
    quality, size = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    found = [row["metrics"][metric] for row in ordered]
    quality.errorbar([each["mean"] for each in found], places, xerr=[each["sd"] for each in found], fmt="o", capsize=3)
    quality.set_yticks(places, [row["label"] for row in ordered])
    quality.set_xlabel(f"{metric} ({'lower' if metric == 'loss' else 'higher'} is better)")
    size.barh(places, [row["trainable_params"] for row in ordered], color="C1")
    size.set_xscale("log")
    size.set_xlim(left=1e3)
    size.set_xlabel("trained parameters, the head apart")
    for axes in (quality, size):
        axes.grid(alpha=0.3, axis="x")
    figure.suptitle(f"LoRA and its neighbours on {task}")
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
