"""MiniLM-L6 with LoRA r=8 on five GLUE tasks: the best epoch on the validation set, median of 3 seeds (Table 2's way).

    python runs/glue_minilm.py ../shared/data/glue out/glue-minilm

It took 1 h 50 min in one thread of an AMD EPYC with native bfloat16, beside other work on its two cores. Interrupted
and started again it goes on with the first seed that is not finished.
"""

import argparse
from pathlib import Path

from loralab.experiments.seeds import SeedsResult, train_seeds
from loralab.training.config import TrainConfig

SEEDS = (1, 2, 3)
EPOCHS = {"cola": 8, "mrpc": 3, "rte": 4, "stsb": 3, "sst2": 1}
"""Far fewer than the paper's 30 to 80: what fits into two hours on two cores."""
EXAMPLES = {"sst2": 30_000}
"""Where not all of the training set is used (SST-2 has 67,349 rows): the first so many."""
SHOWN = {"cola": "matthews", "mrpc": "accuracy", "rte": "accuracy", "stsb": "pearson", "sst2": "accuracy"}
"""The metric of the paper's Table 2."""

HEAD = """
| task | metric | median ± sd | seeds 1, 2, 3 | epochs | trained | minutes of steps |
|---|---|---|---|---|---|---|"""


def configuration(task: str, data: str, out: Path) -> TrainConfig:
    """The same for all five but for the epochs; the targets are q and v, as in the paper."""
    return TrainConfig(
        model="minilm-l6",
        task=f"glue/{task}",
        data=data,
        out=str(out / task),
        rank=8,
        alpha=16.0,
        targets="q,v",
        epochs=EPOCHS[task],
        limit=EXAMPLES.get(task),
        batch_size=16,
        lr=1e-3,
        max_length=128,
        best_epoch=True,
        save_every=0,
        resume=True,
    )


def row(task: str, result: SeedsResult) -> str:
    """One line of the table: median and spread, every seed, what trained, and how long it took."""
    name = SHOWN[task]
    each = ", ".join(f"{run.metrics[name]:.1f}" for run in result.runs)
    minutes = sum(run.seconds for run in result.runs) / 60
    trained = result.runs[0].trainable_params
    return (
        f"| {task} | {name} | {result.metrics[name]:.1f} ± {result.spread[name]:.1f} | {each} "
        f"| {EPOCHS[task]} | {trained:,} | {minutes:.0f} |"
    )


def main() -> None:
    """Train all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="the GLUE root folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    arguments = parser.parse_args()
    rows = []
    for task in arguments.tasks:
        rows.append(row(task, train_seeds(configuration(task, arguments.data, arguments.out), SEEDS)))
        print(rows[-1], flush=True)
    print(HEAD)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
