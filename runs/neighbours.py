"""LoRA's neighbours beside LoRA and full fine-tuning: a comparison per task, one table and one plot of all of them.

    python runs/neighbours.py cola ../shared/data/glue out/neighbours
    python runs/neighbours.py mrpc ../shared/data/glue out/neighbours
    python runs/neighbours.py rte ../shared/data/glue out/neighbours
    python runs/neighbours.py e2e ../shared/data/e2e out/neighbours
    python runs/neighbours.py docstrings - out/neighbours

    python -m benchmarks.neighbours --cells out/neighbours/mrpc-{matched,full,vera}/cells … \\
      --json out/neighbours/mrpc-steps.json                     the steps' times, for the table
    python runs/neighbours.py cola ../shared/data/glue out/neighbours --seeds 1 --rate-times 0.3

Methods whose size can be chosen get the trainable parameters of LoRA r=8 on q and v; VeRA, AdaMix and the optimizers
of the whole model cannot be, and have the size that the comparison says. Learning rates are one per method, set
beforehand and tuned for none; `--rate-times` says how much that matters. Every comparison goes on where it was
interrupted. With `--threads 1`, on one core of an Intel Xeon, CoLA and MRPC took 2 hours each, RTE 1 and E2E 1½; two
tasks can run side by side.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
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
    "rslora": "a higher rank helps, where LoRA's α/r slows learning (abstract)",
    "dora": "LLaMA-7B, 8 commonsense tasks: 78.4, LoRA 74.7 (Table 1)",
    "pissa": "LLaMA-2-7B, GSM8K: 53.22, LoRA 43.23 (Table 2)",
    "lora-fa": "LoRA's quality, up to 1.4 times less memory (abstract)",
    "tied": "translation BLEU 41.33 with 12.5% of the parameters, LoRA 41.30 (abstract)",
    "multilora": "better than LoRA on mixed tasks at 2.5% of the parameters (abstract)",
    "lora-xs": "LoRA's quality with over 100 times fewer parameters (abstract)",
    "vera": "RoBERTa-large, GLUE: 87.8 with 0.061M, LoRA 87.8 with 0.8M",
    "adamix": "better than full fine-tuning with 0.1–0.2% of the parameters (abstract)",
    "adamix-adapter": "the same",
    "eva": "faster convergence, the best mean of the starts compared (abstract)",
    "lora+": "1–2% better, up to twice as fast (abstract)",
    "grass": "close to full-rank pretraining at less memory (abstract)",
    "galore": "up to 65.5% less optimizer memory, as good as full-rank (abstract)",
}


@dataclass(frozen=True)
class Comparison:
    """One call of `loralab compare`."""

    name: str
    methods: tuple[str, ...]
    flags: Flags = field(default_factory=dict)
    rate: float | None = None
    """Of its methods, where it is not that of `RATES`."""
    title: str = ""
    """What the table calls it, where that is not the method's name."""

    def rates(self, times: float) -> str:
        """`--method-lr` of its methods: each one's own learning rate, times this."""
        return ",".join(f"{method}={(self.rate or RATES[method]) * times:g}" for method in self.methods)


MATCHED = ("lora", "rslora", "dora", "pissa", "lora-fa", "tied", "multilora", "lora-xs")
COMPARISONS = (
    Comparison("matched", MATCHED),
    Comparison("full", ("full",)),
    Comparison("vera", ("vera",), {"--rank": "1024"}),
    Comparison("adamix", ("adamix",), {"--rank": "8", "--experts": "4"}),
    Comparison("adamix-adapter", ("adamix-adapter",), {"--size": "16", "--experts": "4"}),
    Comparison("eva", ("lora",), {"--init": "eva"}, title="eva"),
    Comparison("lora-plus", ("lora",), {"--lora-plus-ratio": "16"}, rate=3e-4, title="lora+"),
    Comparison("projected", ("grass", "galore"), {"--rank": "64", "--refresh-every": "100"}),
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
METRICS = {"cola": "matthews", "mrpc": "accuracy", "rte": "accuracy", "e2e": "loss", "docstrings": "loss"}
"""What a task is judged by, in the order of the table."""

Row = dict[str, Any]
Rows = dict[str, dict[str, Row]]
"""Task → method's name → its row."""


def main() -> None:
    """Run the comparisons of one task, and put those of all tasks that are there into one table and one plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", help="the GLUE root folder, that of E2E, or - for docstrings")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=[each.name for each in COMPARISONS], help="one of the comparisons")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument(
        "--rate-times", type=float, default=1.0, help="every learning rate times this, into OUT/x<this>"
    )
    parser.add_argument("--threads", help="CPU threads of a training instead of all")
    arguments = parser.parse_args()
    for comparison in COMPARISONS:
        if arguments.only in (None, comparison.name):
            run(comparison, arguments)
    report(arguments.out)


def report(out: Path) -> None:
    """neighbours.md, neighbours.png and neighbours.json, of all that has been run into this folder."""
    rows = gathered(out)
    if not rows:
        print(f"no comparison at the methods' own rates is in {out} yet, so there is nothing to put into a table")
        return
    text = table(rows)
    for task in rows:
        text += rates_table(out, task, rows[task])
    (out / "neighbours.md").write_text(text, encoding="utf-8")
    (out / "neighbours.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    plot(rows, out / "neighbours.png")
    print(text)


def run(comparison: Comparison, arguments: argparse.Namespace) -> None:
    """`loralab compare`; its failure ends this script."""
    task = TASKS[arguments.task]
    out = arguments.out if arguments.rate_times == 1 else arguments.out / f"x{arguments.rate_times:g}"
    budget = {"--match-params": BUDGETS[task["--model"]]} if comparison.name == "matched" else {}
    methods = {"--methods": ",".join(comparison.methods), "--method-lr": comparison.rates(arguments.rate_times)}
    place = {
        "--data": "" if arguments.data == "-" else arguments.data,
        "--out": str(out / f"{arguments.task}-{comparison.name}"),
        "--threads": arguments.threads or "",
        "--seeds": arguments.seeds,
        "--save-every": "0",
    }
    words = [
        word
        for flag, value in (task | methods | budget | comparison.flags | place).items()
        if value
        for word in (flag, value)
    ]
    status = subprocess.run([sys.executable, "-m", "loralab", "compare", *words]).returncode
    if status:
        raise SystemExit(status)


def gathered(out: Path) -> Rows:
    """The rows of all comparisons that are there, each with what its adapter takes on disk and its step's time."""
    found: Rows = {}
    for task in METRICS:
        steps = read_steps(out / f"{task}-steps.json")
        for comparison in COMPARISONS:
            folder = out / f"{task}-{comparison.name}"
            if not (folder / "results.json").is_file():
                continue
            for row in json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]:
                name, cell = comparison.title or row["method"], cell_of(folder, row)
                size = row["label"].removeprefix(row["method"]).strip()
                more = {
                    "size": size,
                    "stored_bytes": stored_bytes(cell),
                    "step": steps.get(f"{folder.name}/{cell_name(cell)}"),
                }
                found.setdefault(task, {})[name] = row | more
    return found


def cell_of(folder: Path, row: Row) -> Path:
    """The folder of one of a method's trainings."""
    runs = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("cells/*/run.json")}
    return min(path for path, run in runs.items() if run["config"]["method"] == row["method"])


def cell_name(cell: Path) -> str:
    """Without its seed, as the measurements of steps name it."""
    return cell.name.rpartition("-seed-")[0]


def stored_bytes(cell: Path) -> int:
    """Of its adapter's tensor file."""
    return (cell / "adapter_model.safetensors").stat().st_size


def read_steps(path: Path) -> dict[str, float]:
    """Comparison/cell → its step's time over LoRA's, where `benchmarks.neighbours --cells` has measured it."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: each["median"] for name, each in found.items()}


def table(rows: Rows) -> str:
    """Markdown. What differs between models stands for each, `MiniLM's / SmolLM2's`."""
    by_model: dict[str, list[str]] = {}
    for task in rows:
        by_model.setdefault(TASKS[task]["--model"], []).append(task)
    metrics = [f"{task} {METRICS[task]}" for task in rows]
    heads = ["method", "size", "trained", "stored MB", "step ÷ LoRA's", "peak MB", *metrics, "published"]
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (4 + len(metrics)) + "---|"]
    for name in dict.fromkeys(name for task in rows.values() for name in task):
        of_models = [[rows[task][name] for task in tasks if name in rows[task]] for tasks in by_model.values()]
        cells = [name, *resources([each for each in of_models if each])]
        cells += [score(rows[task][name], METRICS[task]) if name in rows[task] else "" for task in rows]
        lines.append(f"| {' | '.join([*cells, PUBLISHED.get(name, '')])} |")
    return "\n".join(lines) + "\n"


def resources(of_models: list[list[Row]]) -> list[str]:
    """Size, trained parameters, stored bytes, the step's time (of a model's first task) and the largest peak."""
    columns = [
        [tasks[0]["size"] for tasks in of_models],
        [f"{tasks[0]['trainable_params']:,}" for tasks in of_models],
        [f"{tasks[0]['stored_bytes'] / 1e6:.2f}" for tasks in of_models],
        ["" if tasks[0]["step"] is None else f"{tasks[0]['step']:.2f}" for tasks in of_models],
        [f"{max(row['peak_memory_bytes'] for row in tasks) / 1e6:,.0f}" for tasks in of_models],
    ]
    return [" / ".join(filter(None, column)) for column in columns]


def score(row: Row, metric: str) -> str:
    """A mean, with the deviation where there are several seeds."""
    found = row["metrics"][metric]
    return f"{found['mean']:.2f}" + (f" ± {found['sd']:.2f}" if found["n"] > 1 else "")


def rates_table(out: Path, task: str, rows: dict[str, Row]) -> str:
    """Markdown: the first seed at other learning rates, where `--rate-times` was run; empty if nowhere."""
    times = {float(folder.name[1:]): gathered(folder).get(task, {}) for folder in out.glob("x*") if folder.is_dir()}
    times = {each: found for each, found in sorted((times | {1.0: rows}).items()) if found}
    if len(times) < 2:
        return ""
    lines = [f"| {task} {METRICS[task]}, seed 1 | rate | {' | '.join(f'× {each:g}' for each in times)} |"]
    lines.append("|---|---:|" + "---:|" * len(times))
    for name, row in rows.items():
        values = [
            found[name]["metrics"][METRICS[task]]["values"][0] if name in found else None for found in times.values()
        ]
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        lines.append(f"| {name} | {row['lr']:g} | {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n"


def plot(rows: Rows, path: Path) -> None:
    """Each task's metric, a method a line, with LoRA's mean through it; beside them what the first task trains."""
    names = list(dict.fromkeys(name for task in rows.values() for name in task))[::-1]
    figure = Figure(figsize=(3 + 2.6 * len(rows), 1 + 0.32 * len(names)), layout="constrained")
    *panels, size = figure.subplots(1, len(rows) + 1, sharey=True)
    for axes, (task, found) in zip(panels, rows.items(), strict=True):
        metric = METRICS[task]
        shown = {name: found[name]["metrics"][metric] for name in names if name in found}
        places = [names.index(name) for name in shown]
        means, spreads = [each["mean"] for each in shown.values()], [each["sd"] for each in shown.values()]
        axes.errorbar(means, places, xerr=spreads, fmt="o", capsize=3)
        if "lora" in shown:
            axes.axvline(shown["lora"]["mean"], color="C7", linestyle=":")
        axes.set_title(task)
        axes.set_xlabel(f"{metric}, {'lower' if metric == 'loss' else 'higher'} is better")
        axes.grid(alpha=0.3, axis="x")
    trained = [next(task[name] for task in rows.values() if name in task)["trainable_params"] for name in names]
    size.plot(trained, range(len(names)), "s", color="C1")
    size.set(xscale="log", title="trained parameters", xlabel="the head apart")
    size.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(names)), names)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
