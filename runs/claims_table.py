"""What `runs/claims.py` has trained so far, as the tables of docs/results/claims.md: into docs/results/claims.json.

    python runs/claims_table.py out/claims --machine "two cores of an AMD EPYC, other work on them"
    python docs/generate.py

Takes a second, and may be called at any time: only trainings that ended are counted, and what the file has of parts
that are not in the folder stays.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from claims import METHODS, TASKS, ClaimTask

from loralab.metrics.scores import higher_is_better, level

FILE = Path(__file__).resolve().parents[1] / "docs" / "results" / "claims.json"
LORA = ("lora-qv", "lora-all")
Part = Mapping[str, Any]


def main() -> None:
    """Read the folder, add to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--machine", required=True)
    arguments = parser.parse_args()
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    parts = known.get("claims", {}).get("parts", {}) | parts_in(arguments.out)
    facts = {"machine": arguments.machine, "recorded": date.today().isoformat(), "command": "python runs/claims.py"}
    what = "at its own rate, mean ± standard deviation over the seeds in brackets; MiniLM-L6 and SmolLM2-135M"
    records = {
        "claims": {"what": f"Every method {what}", **facts, "table": verdicts(parts), "parts": parts},
        "claims-rates": {
            "what": "Held-out loss of the trainings that looked for a rate (seed 0)", **facts, "table": rates(parts),
        },
        "claims-others": {"what": "The parts beside the methods", **facts, "table": others(parts)},
    }  # fmt: skip
    FILE.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# -- what was trained ---------------------------------------------------------------------------------------------


def parts_in(out: Path) -> dict[str, Part]:
    """By `task/part`: results of the rates that were tried and of the seeds, of trainings that ended."""
    found = {}
    for place in sorted(out.glob("*/*/comparison.json")):
        task, part = place.parent.parent.name, place.parent.name
        searched, seeds = (ended(place.parent / name) for name in ("tuning", "cells"))
        if searched:
            bleu = place.with_name("bleu.json")
            texts = json.loads(bleu.read_text(encoding="utf-8")) if bleu.is_file() else []
            found[f"{task}/{part}"] = {"rates": searched, "seeds": seeds, "texts": texts}
    return found


def ended(folder: Path) -> list[dict[str, Any]]:
    """Rate, seed, steps, parameters, scores and their course of every training that ended."""
    results = []
    for record in sorted(folder.glob("*/run.json")):
        run = json.loads(record.read_text(encoding="utf-8"))
        if "result" in run:
            lines = (record.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            course = [each for each in map(json.loads, lines) if each["split"] != "train"]
            results.append(
                {name: run["config"][name] for name in ("lr", "seed", "limit")}
                | {"course": course}
                | {name: run["result"][name] for name in ("steps", "trainable_params", "total_params", "metrics")}
            )
    return results


# -- the tables ---------------------------------------------------------------------------------------------------


def verdicts(parts: Mapping[str, Part]) -> list[list[str]]:
    """A row for every task: the methods, whether full fine-tuning had flattened, LoRA against it, the paper."""
    head = ["task", "metric", *METHODS, "full, by evaluation", "LoRA against full", "paper: full, LoRA"]
    return [head, *(_row(name, task, parts) for name, task in TASKS.items())]


def _row(name: str, task: ClaimTask, parts: Mapping[str, Part]) -> list[str]:
    values = {part: scores(parts.get(f"{name}/{part}"), task.metric) for part in METHODS}
    full = parts.get(f"{name}/full", {}).get("seeds", [])
    return [
        task.title, task.metric, *map(said, values.values()), course(full, task.metric),
        verdict(values, task.metric), task.paper,
    ]  # fmt: skip


def scores(part: Part | None, metric: str) -> list[float]:
    """Of the seeds that ended."""
    return [run["metrics"][metric] for run in part["seeds"]] if part else []


def said(values: Sequence[float]) -> str:
    """Mean ± deviation (seeds)."""
    if not values:
        return "not run"
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread} ({len(values)})"


def course(runs: Sequence[Part], metric: str) -> str:
    """The mean at each evaluation, of the seeds that ended."""
    courses = [[each[metric] for each in run["course"] if each["step"]] for run in runs]
    return " → ".join(f"{fmean(values):.1f}" for values in zip(*courses, strict=False)) or "-"


def verdict(values: Mapping[str, Sequence[float]], metric: str) -> str:
    """The better LoRA against full fine-tuning: held, within the spread, not decided, not held; none of one seed."""
    full, loras = values["full"], [values[name] for name in LORA if len(values[name]) > 1]
    if len(full) < 2 or not loras:
        return "too few seeds to say" if full and any(values[name] for name in LORA) else "not run"
    sign = 1 if higher_is_better(metric) else -1
    best = max(loras, key=lambda each: sign * fmean(each))
    if sign * fmean(best) >= sign * fmean(full):
        return "held"
    if not level(fmean(best), stdev(best), fmean(full), stdev(full)):
        return "not held"
    is_near = abs(fmean(best) - fmean(full)) <= 2 * stdev(full)
    return "within the spread" if is_near else "not decided: LoRA's seeds lie too far apart"


def by_examples(runs: Sequence[Part]) -> dict[int | None, list[Part]]:
    """The runs of a part, by how many examples they were trained on (None: all)."""
    groups: dict[int | None, list[Part]] = {}
    for run in runs:
        groups.setdefault(run["limit"], []).append(run)
    return groups


def rates(parts: Mapping[str, Part]) -> list[list[str]]:
    """A row for every setting that was tuned; the rates by their place among the five."""
    rows = [["task", "method", "examples", "trained", "steps", *(f"rate {n}" for n in range(1, 6)), "best"]]
    for name, part in parts.items():
        task, _, method = name.partition("/")
        for examples, group in by_examples(part["rates"]).items():
            runs = sorted(group, key=lambda run: run["lr"])
            best = min(runs, key=lambda run: run["metrics"]["loss"])
            cells = [f"{run['lr']:g}: {run['metrics']['loss']:.3f}" for run in runs]
            facts = [str(examples or "all"), f"{best['trainable_params']:,}", str(best["steps"])]
            rows.append([TASKS[task].title, method, *facts, *cells, *["-"] * (5 - len(cells)), f"{best['lr']:g}"])
    return rows


def others(parts: Mapping[str, Part]) -> list[list[str]]:
    """What limits a method, and Tables 5, 6 and 16: a row for every setting beside the methods."""
    rows = [["task", "part", "examples", "trained", "steps", "metric", "reached"]]
    for name, part in parts.items():
        task, _, method = name.partition("/")
        groups = {} if method in METHODS else by_examples(part["seeds"])
        for examples, runs in groups.items():
            metric, first = TASKS[task].metric, runs[0]
            facts = [str(examples or "all"), f"{first['trainable_params']:,}", str(first["steps"])]
            rows.append([TASKS[task].title, method, *facts, metric, said([run["metrics"][metric] for run in runs])])
    return rows


if __name__ == "__main__":
    main()
