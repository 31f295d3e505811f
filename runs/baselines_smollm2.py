"""LoRA, full fine-tuning and other baselines on SmolLM2-135M, 3 seeds (Table 3): E2E, and the embedded docstrings.

    python runs/baselines_smollm2.py e2e out/baselines --data ../shared/data/e2e
    python runs/baselines_smollm2.py docstrings out/baselines

Far less training than the paper's: 60 steps of 8 examples, compared by the loss on 256 held-out examples. Learning
rates are one per method, set beforehand and tuned for none. Interrupted and started again it goes on with the first
training that is not finished. Judged by the trainings that were timed, E2E takes about 30 minutes on two cores and
docstrings 40; with `--threads 1` two of these run side by side. The tables are in docs/results/baselines.md.
"""

import argparse
import subprocess
import sys
from pathlib import Path

RATES = {
    "e2e": {"lora": 1e-3, "full": 5e-5, "adapter-l": 1e-3, "prefix-layer": 1e-2},
    "docstrings": {"lora": 1e-3, "full": 5e-5, "adapter-l": 1e-3},
}
SHARED = {
    "--model": "smollm2-135m",
    "--seeds": "1,2,3",
    "--steps": "60",
    "--batch-size": "8",
    "--rank": "4",
    "--targets": "q,v",
    "--size": "16",
    "--max-length": "256",
    "--eval-limit": "256",
    "--save-every": "0",
}


def main() -> None:
    """Compare the methods on one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=RATES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", help="the folder of E2E's official files")
    parser.add_argument("--threads", help="CPU threads of a training instead of all")
    arguments = parser.parse_args()
    rates = RATES[arguments.task]
    flags = SHARED | {
        "--task": arguments.task,
        "--methods": ",".join(rates),
        "--method-lr": ",".join(f"{method}={rate}" for method, rate in rates.items()),
        "--out": str(arguments.out / f"{arguments.task}-methods"),
        "--data": arguments.data,
        "--threads": arguments.threads,
    }
    words = [word for flag, value in flags.items() if value for word in (flag, value)]
    raise SystemExit(subprocess.run([sys.executable, "-m", "loralab", "compare", *words]).returncode)


if __name__ == "__main__":
    main()
