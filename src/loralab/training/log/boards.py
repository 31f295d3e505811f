"""Where else the figures of a run are shown: TensorBoard, Weights & Biases, MLflow and trackio, by their own packages.

Each takes its project, address and key from where its own documentation says (WANDB_MODE, MLFLOW_TRACKING_URI, …). A
board that cannot be started is an error before the training; one that fails later is left behind, with a sentence: the
run goes on, and metrics.jsonl has everything.
"""

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from loralab.errors import TrainingError, first_line
from loralab.extras import lacking, lazy, require
from loralab.files.names import TENSORBOARD_NAME
from loralab.training.config import BOARD_EXTRAS, TrainConfig
from loralab.training.log.samples import Reply, one_line

tensorboard = lazy("torch.utils.tensorboard", "board")
mlflow = lazy("mlflow", "mlflow")
trackio = lazy("trackio", "trackio")
wandb = lazy("wandb", "wandb")

PROJECT = "loralab"
"""Project or experiment, where the environment names none."""
COLUMNS = ("prompt", "wanted", "answer")
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """What a board is told of a run that begins, or goes on."""

    config: TrainConfig
    folder: Path
    after_step: int
    known: str | None
    """How the board called the run, if it goes on."""

    @property
    def name(self) -> str:
        """The run's, for people."""
        return self.folder.resolve().name

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, as JSON."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self.config)))
        return settings


class Board(ABC):
    """One of them, for one run. Whatever its package raises comes through."""

    called: str | None = None
    """What to ask it for, to go on with this run."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by `split/name`."""

    @abstractmethod
    def texts(self, replies: Sequence[Reply]) -> None:
        """What the model said after one step."""

    @abstractmethod
    def close(self, ended: str) -> None:
        """`ended` is finished, stopped or failed."""


class TensorBoard(Board):
    """Event files in the run's folder, made with the first entry."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self._writer: Any = None

    @property
    def writer(self) -> Any:
        """Made late: a new run clears its folder first."""
        if self._writer is None:
            place = str(self.start.folder / TENSORBOARD_NAME)
            self._writer = tensorboard.SummaryWriter(place, purge_step=self.start.after_step + 1)
            self._writer.add_text("config", f"```\n{json.dumps(self.start.settings, indent=2)}\n```", 0)
        return self._writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def texts(self, replies: Sequence[Reply]) -> None:
        self.writer.add_text("samples", _markdown(replies), replies[0].step)

    def close(self, ended: str) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB(Board):
    """A run of Weights & Biases, in WANDB_PROJECT."""

    def __init__(self, start: Start) -> None:
        again = {} if start.known is None else {"id": start.known, "resume": "allow"}
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", start.name),
            config=start.settings,
            settings=wandb.Settings(console="off"),  # it would take the terminal that the progress bar is on
            **again,
        )
        self.called = self.run.id
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})

    def texts(self, replies: Sequence[Reply]) -> None:
        rows = [[each.prompt, each.wanted, each.answer] for each in replies]
        self.run.log({"samples": wandb.Table(columns=list(COLUMNS), data=rows), "step": replies[0].step})

    def close(self, ended: str) -> None:
        self.run.finish(exit_code=0 if ended == "finished" else 1)


class MLflow(Board):
    """A run of MLflow, at MLFLOW_TRACKING_URI in MLFLOW_EXPERIMENT_NAME."""

    ENDS: ClassVar[Mapping[str, str]] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

    def __init__(self, start: Start) -> None:
        self.client = mlflow.MlflowClient()
        if start.known is not None:
            self.called = start.known
            self.client.update_run(self.called, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(experiment)
        where = self.client.create_experiment(experiment) if found is None else found.experiment_id
        self.called = self.client.create_run(where, run_name=start.name).info.run_id
        settings = [mlflow.entities.Param(name, str(value)) for name, value in start.settings.items()]
        self.client.log_batch(self.called, params=settings)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [mlflow.entities.Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.called, metrics=metrics)

    def texts(self, replies: Sequence[Reply]) -> None:
        self.client.log_text(self.called, _markdown(replies), f"samples/step-{replies[0].step:08d}.md")

    def close(self, ended: str) -> None:
        self.client.set_terminated(self.called, status=self.ENDS[ended])


class Trackio(Board):
    """A run of trackio, in TRACKIO_PROJECT."""

    def __init__(self, start: Start) -> None:
        self.run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=start.known or f"{start.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            config=start.settings,
            resume="never" if start.known is None else "must",
            embed=False,
        )
        self.called = self.run.name

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def texts(self, replies: Sequence[Reply]) -> None:
        self.run.log({"samples": trackio.Markdown(_markdown(replies))}, step=replies[0].step)

    def close(self, ended: str) -> None:
        self.run.finish()


BOARDS: Mapping[str, Callable[[Start], Board]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}
"""By the name that `--board` takes."""


@dataclass
class Boards:
    """The boards of one run."""

    say: Callable[[str], None]
    live: dict[str, Board] = field(default_factory=dict)
    ended: str = "failed"
    """How the run ended, until it is known better."""

    @property
    def called(self) -> dict[str, str]:
        """What each calls the run, for run.json."""
        return {name: board.called for name, board in self.live.items() if board.called is not None}

    def entry(self, entry: Entry) -> None:
        """The numbers of a journal's entry."""
        numbers = {
            f"{entry['split']}/{name}": float(value)
            for name, value in entry.items()
            if isinstance(value, (int, float)) and name != "step"
        }
        self._each(lambda board: board.scalars(entry["step"], numbers))

    def replies(self, replies: Sequence[Reply]) -> None:
        """What the model said after one step."""
        if replies:
            self._each(lambda board: board.texts(replies))

    def close(self) -> None:
        """The run is over."""
        self._each(lambda board: board.close(self.ended))

    def _each(self, do: Callable[[Board], None]) -> None:
        for name, board in list(self.live.items()):
            try:
                do(board)
            except Exception as problem:  # noqa: BLE001 - of another program, over a network: anything can come
                del self.live[name]
                self.say(
                    f"--board {name} failed ({first_line(problem)}): the run goes on without it, and metrics.jsonl has "
                    "everything"
                )


def require_boards(config: TrainConfig) -> None:
    """Raises `MissingDependencyError` for a board that was asked for and whose package is not installed."""
    for name in config.board or ():
        require(BOARD_EXTRAS[name], f"--board {name}")


def open_boards(
    config: TrainConfig, folder: Path, after_step: int, known: Mapping[str, str], say: Callable[[str], None]
) -> Boards:
    """Start those that the configuration names; without a word of it TensorBoard, where that is installed.

    `known` is what each called the run before. Raises `TrainingError` for one that cannot be started.
    """
    usual = () if lacking("board") else ("tensorboard",)
    boards = Boards(say)
    for name in usual if config.board is None else config.board:
        try:
            boards.live[name] = BOARDS[name](Start(config, folder, after_step, known.get(name)))
        except Exception as problem:
            boards.close()
            raise TrainingError(
                f"--board {name} could not be started: {first_line(problem)}. See its own documentation for how to log "
                "in or where it keeps runs, or leave it out"
            ) from problem
    return boards


def _markdown(replies: Sequence[Reply]) -> str:
    """A table of what was said."""
    rows = [[one_line(getattr(each, column)).replace("|", "\\|") for column in COLUMNS] for each in replies]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
