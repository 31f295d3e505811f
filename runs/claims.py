"""The paper's first claim at rates of each method's own: LoRA level with full fine-tuning at 1% of its parameters.

    python runs/claims.py                                        # every part's command
    python runs/claims.py mrpc full ../shared/data out/claims    # one part; the same command goes on where it was
    python runs/claims.py e2e full ../shared/data out/claims --bleu   # then: texts of the test split, their BLEU
    python runs/claims_table.py out/claims                       # what there is, into docs/results/claims.json

A part is a task and a method: five rates, each for a quarter of the length with seed 0, judged by the loss on a tenth
of the training split; then three seeds of the full length at the best of them (`compare --tuned`). On GLUE the best
epoch counts, as in the paper (Table 2). LoRA trains less than 1% of what full fine-tuning does (`lora-all-r64` apart).
`full-twice` shows whether full fine-tuning had flattened; `lora-all-twice` and `lora-all-r64` whether steps or rank
hold LoRA back. The parts of MRPC alone are Tables 5, 6 (q, k, r1, r64) and 16 (few). Meant for about six hours of two
cores in all, MiniLM's parts two at a time with `--threads 1`: an estimate, nobody has run all of them.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Flags = Mapping[str, str]

SEEDS = (1, 2, 3)
TWICE = "-twice"
"""At the end of a part's name: the same with twice the steps."""


@dataclass(frozen=True)
class ClaimTask:
    """One task on one small model."""

    title: str
    model: str
    task: str
    data: str
    """Below the data folder; empty for what is embedded."""
    metric: str
    length: Flags
    lengths: tuple[str, str]
    """Which flag of `length` says how long a run is, and how long it is."""
    paper: str
    """Full fine-tuning and LoRA in the paper, and what that comes to."""


def _glue(title: str, name: str, folder: str, metric: str, epochs: str, batch: str, paper: str) -> ClaimTask:
    flags = {"--batch-size": batch, "--max-length": "128", "--best-epoch": ""}
    return ClaimTask(title, "minilm-l6", f"glue/{name}", folder, metric, flags, ("--epochs", epochs), paper)


def _texts(title: str, task: str, folder: str, paper: str) -> ClaimTask:
    flags = {"--batch-size": "8", "--max-length": "256", "--eval-limit": "256", "--eval-every": "60"}
    return ClaimTask(title, "smollm2-135m", task, folder, "loss", flags, ("--steps", "240"), paper)


TASKS = {
    "mrpc": _glue("MRPC", "mrpc", "glue", "accuracy", "3", "16", "90.2, LoRA 89.7 ± 0.7: within the spread"),
    "cola": _glue("CoLA", "cola", "glue", "matthews", "3", "32", "63.6, LoRA 63.4 ± 1.2: within the spread"),
    "stsb": _glue("STS-B", "stsb", "glue", "pearson", "3", "32", "91.2, LoRA 91.5 ± 0.2: held"),
    "sst2": _glue("SST-2", "sst2", "glue", "accuracy", "1", "32", "94.8, LoRA 95.1 ± 0.2: held"),
    "e2e": _texts("E2E", "e2e", "e2e", "BLEU 68.2, LoRA 70.4 ± 0.1: held"),
    "docstrings": _texts("docstrings", "docstrings", "", "-"),
    "alpaca": _texts("Alpaca", "jsonl", "alpaca/alpaca_data.json", "-"),
}
"""The paper's figures are RoBERTa-base's (Table 2) and GPT-2 medium's (Table 3)."""

_LORA = {"--methods": "lora", "--alpha": "16"}
METHODS: dict[str, Flags] = {
    "full": {"--methods": "full"},
    "lora-qv": _LORA | {"--rank": "8", "--targets": "q,v"},
    "lora-all": _LORA | {"--rank": "4", "--targets": "all-linear"},
    "bitfit": {"--methods": "bitfit"},
    "adapter-h": {"--methods": "adapter-h", "--size": "8"},
}
LIMITS: dict[str, Flags] = {
    f"full{TWICE}": METHODS["full"],
    f"lora-all{TWICE}": METHODS["lora-all"],
    "lora-all-r64": METHODS["lora-all"] | {"--rank": "64"},
}
"""What limits a method, from an experiment."""
_FEW = {"--train-sizes": "100,1000", "--steps": "200", "--epochs": None, "--best-epoch": None, "--eval-limit": "100000"}
OF_MRPC: dict[str, Flags] = {
    "r1": _LORA | {"--rank": "1", "--targets": "q,v"},
    "r64": _LORA | {"--rank": "64", "--targets": "q,v"},
    "q": _LORA | {"--rank": "16", "--targets": "q"},
    "k": _LORA | {"--rank": "16", "--targets": "k"},
    "few-full": METHODS["full"] | _FEW,
    "few-lora-qv": METHODS["lora-qv"] | _FEW,
    "few-lora-all": METHODS["lora-all"] | _FEW,
    "few-prefix-layer": {"--methods": "prefix-layer", "--prefix": "16", "--infix": "16"} | _FEW,
}
"""Tables 5, 6 and 16."""


def parts_of(task: str) -> dict[str, Flags]:
    """The parts of a task by name."""
    return METHODS | LIMITS | (OF_MRPC if task == "mrpc" else {})


def main() -> None:
    """Run one part, or say which there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", choices=TASKS)
    parser.add_argument("part", nargs="?", help="a method, or an experiment on what limits one")
    parser.add_argument("data", nargs="?", type=Path, help="the folder that holds glue, e2e and alpaca")
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--bleu", action="store_true", help="the texts of a part that has been trained")
    parser.add_argument("--threads", help="CPU threads of a training instead of all")
    arguments = parser.parse_args()
    if arguments.out is None:
        print(listing())
    elif arguments.part not in parts_of(arguments.task):
        parser.error(f"{arguments.task} has no part {arguments.part!r}: {', '.join(parts_of(arguments.task))}")
    elif arguments.bleu:
        write_texts(arguments.task, arguments.part, arguments.data, arguments.out)
    else:
        train(arguments.task, arguments.part, arguments.data, arguments.out, arguments.threads)


def listing() -> str:
    """Every part's command."""
    return "\n".join(f"python runs/claims.py {task} {part} DATA OUT" for task in TASKS for part in parts_of(task))


def train(name: str, part: str, data: Path, out: Path, threads: str | None) -> None:
    """`loralab compare --tuned` of this part."""
    task = TASKS[name]
    flag, length = task.lengths
    twice = str(2 * int(length)) if part.endswith(TWICE) else length
    flags: dict[str, str | None] = {
        "--model": task.model, "--task": task.task, "--seeds": ",".join(map(str, SEEDS)), "--tuned": "",
        "--save-every": "100", "--keep": "1", "--threads": threads,
        "--data": str(data / task.data) if task.data else None,
        **task.length, flag: twice, **parts_of(name)[part], "--out": str(out / name / part),
    }  # fmt: skip
    loralab("compare", flags)


def write_texts(name: str, part: str, data: Path, out: Path) -> None:
    """Texts of 200 inputs of the test split from every seed's adapter, scored: bleu.json beside the part's results."""
    task = TASKS[name]
    scores = []
    for adapter in sorted((out / name / part / "cells").glob("*-seed-?")):
        flags = {"--model": task.model, "--task": task.task, "--data": str(data / task.data), "--adapter": str(adapter)}
        said = loralab("eval", flags | {"--split": "test", "--limit": "200", "--generate": "", "--json": ""})
        scores.append(json.loads(said.splitlines()[-1])["metrics"])
    (out / name / part / "bleu.json").write_text(json.dumps(scores, indent=2), encoding="utf-8")


def loralab(verb: str, flags: Mapping[str, str | None]) -> str:
    """What the command says on stdout, with the flags that are not None; its failure ends this script."""
    given = [(flag, value) for flag, value in flags.items() if value is not None]
    words = [word for flag, value in given for word in (flag, value) if word]
    done = subprocess.run([sys.executable, "-m", "loralab", verb, *words], stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
