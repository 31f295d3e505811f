"""The paper's baselines on MiniLM-L6 and one GLUE task, 3 seeds (Table 2); on MRPC also LoRA's ranks and matrices, and
few examples (Tables 5, 6 and 16).

    python runs/baselines_minilm.py mrpc ../shared/data/glue out/baselines
    python runs/baselines_minilm.py rte ../shared/data/glue out/baselines
    python runs/baselines_minilm.py cola ../shared/data/glue out/baselines

Measured once, at the end, on the whole validation set. Learning rates are one per method, set beforehand and tuned for
none but BitFit: of 1e-3, 3e-3 and 1e-2, tried on MRPC, the others do not leave the majority class. Interrupted and
started again it goes on with the first training that is not finished. Judged by the trainings that were timed on a
quiet machine, MRPC takes about 100 minutes of one core, RTE 30 and CoLA 60; with `--threads 1` two of these run side
by side. The tables are in docs/results/baselines.md.
"""

import argparse
import subprocess
import sys
from pathlib import Path

Flags = dict[str, str]

RATES = {
    "lora": 1e-3,
    "full": 1e-4,
    "top2": 1e-4,
    "bitfit": 3e-3,
    "adapter-h": 1e-3,
    "adapter-l": 1e-3,
    "adapter-p": 1e-3,
    "prefix-layer": 5e-3,
}
"""Without prefix-embed: at this budget it has 192 positions, which makes it eight times as slow as the others."""
BUDGET = "73728"
"""Equal budgets are those of LoRA r=8 on q and v."""
SHARED: Flags = {
    "--model": "minilm-l6",
    "--seeds": "1,2,3",
    "--max-length": "128",
    "--eval-limit": "100000",
    "--save-every": "0",
}


def of_methods(*methods: str) -> Flags:
    """The flags that compare these methods, each at its own learning rate."""
    rates = ",".join(f"{method}={RATES[method]}" for method in methods)
    return {"--methods": ",".join(methods), "--method-lr": rates}


def of_lora() -> Flags:
    """The flags of comparisons of LoRA with itself."""
    return {"--methods": "lora", "--lr": str(RATES["lora"])}


COMPARISONS: dict[str, dict[str, Flags]] = {
    "mrpc": {
        "methods": {**of_methods("lora", "full", "top2", "bitfit", "adapter-h", "adapter-l"), "--match-params": BUDGET},
        "ranks": {**of_lora(), "--ranks": "1,8,64", "--targets": "q,v"},
        "matrices": {**of_lora(), "--target-sets": "q;k;q,v", "--match-params": BUDGET},
        "few": {**of_methods("lora", "full", "prefix-layer"), "--train-sizes": "100,1000", "--match-params": BUDGET},
    },
    "rte": {
        "methods": {**of_methods("lora", "full", "bitfit", "adapter-h"), "--match-params": BUDGET},
    },
    "cola": {
        "methods": {**of_methods("lora", "full", "bitfit", "adapter-h"), "--match-params": BUDGET},
    },
}
LENGTH: dict[str, Flags] = {
    "mrpc": {"--epochs": "2", "--batch-size": "16", "--best-metric": "accuracy"},
    "rte": {"--epochs": "2", "--batch-size": "16", "--best-metric": "accuracy"},
    "cola": {"--epochs": "3", "--batch-size": "32", "--best-metric": "matthews"},
}
LENGTH_OF_FEW: Flags = {"--epochs": "", "--steps": "200"}
"""As many steps for 100 examples as for 1,000."""


def main() -> None:
    """Run the comparisons of one task, each into a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=COMPARISONS)
    parser.add_argument("data", help="the GLUE root folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=COMPARISONS["mrpc"], help="one of the comparisons instead of all")
    parser.add_argument("--threads", help="CPU threads of a training instead of all")
    arguments = parser.parse_args()
    for name, flags in COMPARISONS[arguments.task].items():
        if arguments.only in (None, name):
            length = LENGTH[arguments.task] | (LENGTH_OF_FEW if name == "few" else {})
            place = {"--task": f"glue/{arguments.task}", "--data": arguments.data}
            out = {"--out": str(arguments.out / f"{arguments.task}-{name}"), "--threads": arguments.threads or ""}
            compare(SHARED | flags | length | place | out)


def compare(flags: Flags) -> None:
    """`loralab compare` with the flags that have a value; its failure ends this script."""
    words = [word for flag, value in flags.items() if value for word in (flag, value)]
    status = subprocess.run([sys.executable, "-m", "loralab", "compare", *words]).returncode
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
