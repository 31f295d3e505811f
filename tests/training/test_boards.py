"""TensorBoard, Weights & Biases, MLflow and trackio: what arrives there, and what becomes of a run where one fails.

Those that are not installed are skipped; all are used without a network.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import loralab as ll
from loralab.training.log.boards import Board, Boards, open_boards
from loralab.training.log.samples import Reply

Configure = Callable[..., ll.TrainConfig]
theirs = pytest.mark.filterwarnings("ignore")
"""What a board's package warns of is not ours to mend."""
REPLIES = [Reply(0, "say a:", "a", "b | c")]


@pytest.fixture
def said() -> list[str]:
    return []


def test_tensorboard_has_figures_configuration_and_samples(configured: Configure) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = configured(steps=2, board=("tensorboard",))
    ll.train(config)
    events = accumulator.EventAccumulator(str(Path(config.out, "tensorboard")))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "validation/loss"} <= set(tags["scalars"])
    assert [each.step for each in events.Scalars("validation/loss")] == [0, 2]
    assert {"config/text_summary", "samples/text_summary"} <= set(tags["tensors"])


def test_no_board_is_no_board(configured: Configure) -> None:
    config = configured(steps=1, board=())
    ll.train(config)
    assert not Path(config.out, "tensorboard").exists()


@theirs
def test_wandb_offline(configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    config = configured(steps=2, board=("wandb",))
    ll.train(config)
    again = replace(config, steps=3, resume=True)
    ll.train(again)
    called = json.loads(Path(config.out, "run.json").read_text())["boards"]["wandb"]
    runs = list(tmp_path.glob("wandb/offline-run-*"))
    assert len(runs) == 2
    assert all(each.name.endswith(called) for each in runs)
    assert all(next(each.glob("*.wandb")).stat().st_size for each in runs)


@theirs
def test_mlflow_in_a_file(configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.chdir(tmp_path)
    config = configured(steps=2, board=("mlflow",))
    ll.train(config)
    ll.train(replace(config, steps=3, resume=True))
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["rank"] == "2"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(each.step for each in losses) == [1, 2, 3]
    assert {each.path for each in client.list_artifacts(run.info.run_id, "samples")} == {
        f"samples/step-{step:08d}.md" for step in (0, 2, 3)
    }


@theirs
def test_trackio_at_home(configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read where trackio is imported
    monkeypatch.setenv("TRACKIO_PROJECT", "tests")
    pytest.importorskip("trackio")
    config = configured(steps=2, board=("trackio",))
    ll.train(config)
    ll.train(replace(config, steps=3, resume=True))
    assert list((tmp_path / "trackio").glob("tests*"))


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_said_before_anything_is_done(
    configured: Configure, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loralab.extras.find_spec", lambda module: None)
    config = configured(board=(name,))
    with pytest.raises(ll.LoralabError, match=rf"--board {name} needs {name}.*pip install 'loralab\[{name}\]'"):
        ll.train(config)
    assert not Path(config.out).exists()


class Breaks(Board):
    """A board whose network went away after so many calls."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.ended: str | None = None

    def _call(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("no route to host")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._call()

    def texts(self, replies: Sequence[Reply]) -> None:
        self._call()

    def close(self, ended: str) -> None:
        self.ended = ended


def test_a_board_that_fails_is_left_behind_and_the_others_go_on(said: list[str]) -> None:
    broken, sound = Breaks(1), Breaks(99)
    boards = Boards(said.append, {"wandb": broken, "mlflow": sound})
    for step in (1, 2, 3):
        boards.entry({"step": step, "split": "train", "loss": 1.0})
    boards.replies(REPLIES)
    boards.ended = "finished"
    boards.close()
    assert len(said) == 1
    assert "--board wandb failed (no route to host): the run goes on without it" in said[0]
    assert (broken.ended, sound.ended, sound.left) == (None, "finished", 95)


def test_a_board_that_cannot_be_started_is_an_error(
    configured: Configure, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(ll.TrainingError, match="--board mlflow could not be started"):
        open_boards(configured(board=("mlflow",)), tmp_path, 0, {}, said.append)
