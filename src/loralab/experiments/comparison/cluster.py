"""The cells of a comparison on a cluster: each is a task of Ray with processors of its own, on machines that share the
folder.

What a cell is, how it starts, goes on and is held is as on one machine; what it came to is in its folder. A task whose
worker is lost is given to another one and goes on from the newest checkpoint. Nothing of ours travels but the cell.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loralab.errors import OutputError, ProcessError, first_line
from loralab.experiments.comparison.cells import Cell
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.folder import ComparisonFolder, held, of_cell
from loralab.experiments.comparison.process import AGAIN, Outcome, finished, run_cell
from loralab.extras import lazy, require

ray = lazy("ray", "cluster")

TRIES = 4
"""How often a cell is given to a worker, where each before was lost."""
PATIENCE = 3.0
"""Seconds between two looks at a cell that a lost worker's training still holds."""


def cells_on_cluster(cells: Sequence[Cell], config: CompareConfig) -> Iterator[Outcome]:
    """Train the cells on the cluster `config.cluster`, and give what came of each as it ends.

    Raises MissingDependencyError without Ray, ProcessError where the cluster does not answer, KeyboardInterrupt where
    this process is asked to stop: every training then writes a checkpoint, with which the same comparison goes on.
    """
    assert config.cluster is not None
    with _connected(config.cluster):
        task = ray.remote(num_cpus=config.threads or 1, num_gpus=_accelerators(config), max_retries=TRIES - 1)(_train)
        waiting = {task.remote(os.getcwd(), config.out, cell): cell for cell in cells}
        try:
            while waiting:
                ended, _ = ray.wait(list(waiting), num_returns=1)
                yield _outcome(ended[0], waiting.pop(ended[0]))
        except KeyboardInterrupt:
            _stop(waiting)
            raise KeyboardInterrupt(AGAIN) from None


@contextmanager
def _connected(address: str) -> Iterator[None]:
    require("cluster", f"--cluster {address}")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as problem:
        raise ProcessError(
            f"cluster {address}: no Ray answers there ({first_line(problem)}); start one with `ray start --head`, give "
            "the address that it names, or leave cluster out"
        ) from problem
    try:
        yield
    finally:
        ray.shutdown()


def _accelerators(config: CompareConfig) -> int:
    """A GPU for each cell, where the cluster has any and the comparison may use them."""
    return int(config.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)


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


def _stop(tasks: Sequence[Any] | dict[Any, Cell]) -> None:
    """Ask all of them to stop, and wait until they did."""
    for task in tasks:
        ray.cancel(task, force=False)
    for task in tasks:
        try:
            ray.get(task)
        except (ray.exceptions.RayError, KeyboardInterrupt):
            continue
