"""The cells of a comparison on a cluster: each is a task of Ray with processors of its own, on machines that share the
folder.

What a cell is, how it starts, goes on and is held is as on one machine; what it came to is in its folder. A task whose
worker is lost is given to another one and goes on from the newest checkpoint. Nothing of ours travels but the cell.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loralab.errors import OutputError, first_line
from loralab.experiments.cluster import PATIENCE, TRIES, accelerators, connected, ended_of, noted_termination
from loralab.experiments.comparison.cells import Cell
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.folder import ComparisonFolder, held, of_cell
from loralab.experiments.comparison.process import AGAIN, Outcome, finished, run_cell
from loralab.extras import lazy

ray = lazy("ray", "cluster")


def cells_on_cluster(cells: Sequence[Cell], config: CompareConfig) -> Iterator[Outcome]:
    """Train the cells on the cluster `config.cluster`, and give what came of each as it ends.

    Raises MissingDependencyError without Ray, ProcessError where the cluster does not answer, KeyboardInterrupt or
    SystemExit where this process is asked to stop: every training then writes a checkpoint, with which the same
    comparison goes on.
    """
    assert config.cluster is not None
    with connected(config.cluster):
        gpus = accelerators(config.device)
        task = ray.remote(num_cpus=config.threads or 1, num_gpus=gpus, max_retries=TRIES - 1)(_train)
        tasks = {task.remote(os.getcwd(), config.out, cell): cell for cell in cells}
        try:
            with noted_termination() as check, ended_of(tasks, check) as ended:
                for each in ended:
                    yield _outcome(each, tasks[each])
        except KeyboardInterrupt:
            raise KeyboardInterrupt(AGAIN) from None


def _train(place: str, out: str, cell: Cell) -> str | None:
    """In a worker: train the cell, in the folder of whoever asked; returns why it failed, if it did."""
    os.chdir(place)
    while True:
        try:
            with held(of_cell(ComparisonFolder(Path(out)), cell.name)) as lock:
                outcome = finished(cell) or run_cell(cell, lock, may_be_cancelled=True)
                return outcome.failure
        except OutputError:  # the training of a worker that was lost goes on without it
            time.sleep(PATIENCE)


def _outcome(task: Any, cell: Cell) -> Outcome:
    try:
        failure = ray.get(task)
    except ray.exceptions.RayError as problem:
        failure = f"no worker of the cluster came to its end with it: {first_line(problem)}"
    return (finished(cell) if failure is None else None) or Outcome(
        cell, None, failure or "its folder is not seen here"
    )
