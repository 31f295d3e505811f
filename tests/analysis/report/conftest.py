"""Results as the verbs write them, without training anything."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]

CONFIG = {
    "method": "lora", "model": "<b>tiny</b>", "task": "jsonl", "rank": 4, "alpha": 16.0, "targets": None, "lr": 0.01,
    "data": "data.jsonl", "eval_limit": 256, "seed": 0,
}  # fmt: skip
RESULT = {
    "trainable_params": 1234,
    "total_params": 99999,
    "steps": 3,
    "tokens_per_second": 12.5,
    "peak_memory_bytes": 5 * 10**8,
    "metrics": {"loss": 1.25},
}


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """Writes the record and the journal of a run; `metrics` are its held-out figures, None of a run under way."""

    def write(name: str, metrics: dict[str, float] | None = RESULT["metrics"], **changes: Any) -> Path:  # type: ignore[assignment]
        folder = tmp_path / name
        folder.mkdir(parents=True)
        result = {} if metrics is None else {"result": RESULT | {"metrics": metrics}}
        record = {"config": CONFIG | {"out": str(folder)} | changes, "splits": ["train", "validation", "test"]}
        (folder / "run.json").write_text(json.dumps(record | result))
        steps = [{"step": n, "split": "train", "loss": 3 - 0.5 * n} for n in (1, 2, 3)]
        steps.append({"step": 3, "split": "validation", "loss": 1.6})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        return folder

    return write


@pytest.fixture
def write_rank(tmp_path: Path) -> Callable[[Path, str], Path]:
    """Writes what `analyse rank` leaves of a run: its curve, and adapters cut from it with the run's own record."""

    def write(run: Path, name: str) -> Path:
        folder = tmp_path / name
        points = [(0, 5.5, 0.0), (1, 5.4, 0.6), (2, 5.2, 0.8), (4, 5.1, 1.0)]
        curve = [{"rank": r, "metric": m, "energy": e, "gain_share": (5.5 - m) / 0.4} for r, m, e in points]
        cut = {"out": f"{name}/truncated", "error": 0.1, "parameters": 617, "metric": 5.123, "gain_share": 0.96}
        content = {"adapter": str(run), "metric": "loss", "split": "validation", "share": 0.95, "knee": 2}
        folder.mkdir()
        (folder / "rank.json").write_text(json.dumps(content | {"curve": curve, "truncated": cut}))
        record = json.loads((run / "run.json").read_text())
        for inner in ("truncated", "suggested"):
            (folder / inner).mkdir()
            why = f"cut by SVD from {run} to rank 2"
            (folder / inner / "run.json").write_text(json.dumps(record | {"resized": why}))
        return folder

    return write


@pytest.fixture
def results(tmp_path: Path, write_run: Write) -> Path:
    """A run, a comparison, an analysis and a merged model."""
    run = write_run("run")
    content = {
        "comparison/results.json": {
            "metric": "accuracy",
            "rows": [
                _row("lora r=8", 26_000, 12.0, 32.0),
                _row("full", 1_200_000, 90.0, 30.0),
            ],
            "claims": [
                {"claim": "LoRA is enough", "held": True, "found": "accuracy 71.5"},
                {"claim": "Rank 1 is enough", "held": None, "found": "not tested in this comparison: it needs r=1"},
            ],
        },
        "run/analysis/amplification.json": {
            "adapter": "run",
            "kinds": {"q": {"modules": 2, "amplification": 2.5}},
            "modules": [{"amplification": 2.0 + number, "name": f"layers.{number}.q"} for number in range(20)],
        },
        "merged/loralab_merge.json": {"max_abs_logit_error": 1e-6, "argmax_agreement": 1.0},
    }
    for name, each in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(each))
    (tmp_path / "comparison/cells/one").mkdir(parents=True)
    shutil.copy(run / "run.json", tmp_path / "comparison/cells/one/run.json")
    return tmp_path


def _row(label: str, trained: int, mean: float, sd: float) -> dict[str, Any]:
    return {
        "label": label,
        "method": label.split()[0],
        "rank": 8,
        "targets": None,
        "train_examples": None,
        "trainable_params": trained,
        "metrics": {"accuracy": {"mean": mean, "sd": sd}},
        "seeds": [1, 2, 3],
        "failed": [],
        "tokens_per_second": 10.0,
        "peak_memory_bytes": 10**9,
    }
