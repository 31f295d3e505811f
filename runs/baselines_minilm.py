"""The paper's baselines on MiniLM-L6 and one GLUE task, 3 seeds; then LoRA's ranks and matrices (Tables 2, 5, 6).

    python runs/baselines_minilm.py mrpc ../shared/data/glue out/baselines
    python runs/baselines_minilm.py rte ../shared/data/glue out/baselines
    python runs/baselines_minilm.py cola ../shared/data/glue out/baselines

Two epochs a training, measured once at the end on the whole validation set. Learning rates are one per method, set
beforehand and tuned for none. Interrupted and started again it goes on with the first training that is not finished.
"""

import argparse
import subprocess
import sys
from pathlib import Path

RATES = {
    "lora": 1e-3,
    "full": 1e-4,
    "top2": 1e-4,
    "bitfit": 1e-3,
    "adapter-h": 1e-3,
    "adapter-l": 1e-3,
    "adapter-p": 1e-3,
    "prefix-layer": 5e-3,
}
"""Without prefix-embed: at this budget it has 192 positions, which makes it eight times as slow as the others."""
METRIC = {"mrpc": "accuracy", "rte": "accuracy", "cola": "matthews"}
SHARED = {
    "--model": "minilm-l6",
    "--seeds": "1,2,3",
    "--epochs": "2",
    "--batch-size": "16",
    "--max-length": "128",
    "--eval-limit": "100000",
    "--save-every": "0",
}
COMPARISONS = {
    "methods": {
        "--methods": ",".join(RATES),
        "--method-lr": ",".join(f"{method}={rate}" for method, rate in RATES.items()),
        "--match-params": "73728",
    },
    "prefixes": {
        "--methods": "prefix-embed,prefix-layer",
        "--lr": "5e-3",
        "--prefix-sizes": "2+2,8+8",
    },
    "ranks": {"--methods": "lora", "--lr": "1e-3", "--ranks": "1,2,4,8,64", "--targets": "q,v"},
    "matrices": {
        "--methods": "lora",
        "--lr": "1e-3",
        "--target-sets": "q;k;v;o;q,k;q,v;q,k,v,o",
        "--match-params": "73728",
    },
}
"""Equal budgets are those of LoRA r=8 on q and v."""


def main() -> None:
    """Run the comparisons of one task, each into a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=METRIC)
    parser.add_argument("data", help="the GLUE root folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=COMPARISONS, help="one of the comparisons instead of all")
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else COMPARISONS:
        flags = (
            SHARED
            | COMPARISONS[name]
            | {
                "--task": f"glue/{arguments.task}",
                "--data": arguments.data,
                "--best-metric": METRIC[arguments.task],
                "--out": str(arguments.out / f"{arguments.task}-{name}"),
            }
        )
        command = [sys.executable, "-m", "loralab", "compare", *(word for flag in flags.items() for word in flag)]
        status = subprocess.run(command).returncode
        if status:
            raise SystemExit(status)


if __name__ == "__main__":
    main()
