"""Pruning as files: a Hugging Face folder with fewer blocks, and prune.json and prune.png in it.

Measured before, after, and healed: an adapter trained on the pruned model (`loralab train --model OUT …`).
"""

import gc
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loralab.analysis.layers.angular import AngularDistances, measure_angular, read_angular
from loralab.analysis.layers.config import Measuring, Sampling
from loralab.analysis.layers.measures import Measured, as_numbers, draw_measures, measure
from loralab.errors import SpecError
from loralab.files.whole import refuse_occupied, whole_folder, write_json
from loralab.formats.load import load
from loralab.models.folder import file_dtype, write_proved
from loralab.models.load import LoadedModel, load_model
from loralab.models.surgery.blocks import blocks_of, keep_blocks, removed_run

Strategy = Literal["similarity", "deepest"]
Open = Callable[[str], LoadedModel]
"""Loads the model of a name for measuring."""

RECORD = "prune.json"


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Which blocks go."""

    model: str
    count: int
    strategy: Strategy = "similarity"
    angular: str | None = None
    sampling: Sampling


def prune(pruning: Pruning, out: Path, measuring: Measuring, open_model: Open, healed: str | None) -> dict[str, Any]:
    """Choose, write, measure; the answer of the command line.

    With `healed` a folder that holds this pruned model already is measured again instead of written. Raises
    OutputError for one that holds anything else.
    """
    if healed is None or not out.exists():
        refuse_occupied(out)
    loaded = open_model(pruning.model)
    start, distance = _choose(pruning, loaded)
    total = len(blocks_of(loaded.model))
    record = {
        "model": pruning.model,
        "strategy": pruning.strategy,
        "n": pruning.count,
        "removed": list(range(start, start + pruning.count)),
        "blocks": total - pruning.count,
        "distance": distance,
        "parameters_before": loaded.model.num_parameters(),
    }
    measures = {"before": measure(loaded, measuring)}
    del loaded
    gc.collect()
    if healed is not None and out.exists():
        _refuse_another(out, record)
    else:
        _write(pruning.model, removed_run(total, pruning.count, start), out, record)
    measures |= _measure_pruned(out, measuring, open_model, healed, record)
    answer = record | {
        "out": str(out),
        "heal": heal_command(out, measuring),
        "healed_by": healed,
        **as_numbers(measures),
    }
    write_json(out / RECORD, answer)
    draw_measures(measures, out / "prune.png", f"{Path(pruning.model).name} without {pruning.count} of {total} blocks")
    return answer | {"files": [str(out), str(out / RECORD), str(out / "prune.png")]}


def deepest_start(total: int, count: int) -> int:
    """The first of the `count` deepest blocks but for the last, which stays. Raises SpecError for too many."""
    if not 0 <= count <= total - 2:
        raise SpecError(f"n is {count}: of {total} blocks the deepest but the last can go, 0 to {total - 2} of them")
    return total - 1 - count


def heal_command(out: Path, measuring: Measuring) -> str:
    """What trains an adapter on the pruned model's feed-forwards, as the paper does, on the task that is measured."""
    task = ["--task", measuring.task or "docstrings"]
    data = [] if measuring.task is None or measuring.task_data is None else ["--data", measuring.task_data]
    size = ["--targets", "mlp", "--rank", "8", "--alpha", "8", "--dropout", "0.05", "--steps", "200"]
    return shlex.join(["loralab", "train", "--model", str(out), *task, *data, *size, "--out", f"{out}-healed"])


def _choose(pruning: Pruning, loaded: LoadedModel) -> tuple[int, float | None]:
    """(the first block to go, the distance that says so)."""
    total = len(blocks_of(loaded.model))
    if not 0 <= pruning.count < total:
        raise SpecError(f"n is {pruning.count}; the model has {total} blocks: give 0 to {total - 1}")
    distances: AngularDistances | None = None
    if pruning.angular is not None:
        distances = read_angular(Path(pruning.angular), pruning.model, total)
    if pruning.strategy == "deepest":
        start = deepest_start(total, pruning.count)
    elif pruning.count == 0:
        start = 0
    else:
        distances = distances or measure_angular(loaded, pruning.sampling)
        start = distances.best(pruning.count)
    return start, None if distances is None else distances.distance(start, pruning.count)


def _write(name: str, kept: list[int], out: Path, record: dict[str, Any]) -> None:
    """The folder, in the files' own dtype, reopened and compared before it appears."""
    with whole_folder(out) as draft:
        own = load_model(name, dtype=file_dtype(name), device="cpu")
        keep_blocks(own.model, kept)
        write_proved(own, draft)
        write_json(draft / RECORD, record)


def _measure_pruned(
    out: Path, measuring: Measuring, open_model: Open, healed: str | None, record: dict[str, Any]
) -> dict[str, Measured]:
    loaded = open_model(str(out))
    record["parameters_after"] = loaded.model.num_parameters()
    measures = {"after": measure(loaded, measuring)}
    if healed is not None:
        load(loaded.model, healed)
        measures["healed"] = measure(loaded, measuring)
    return measures


def _refuse_another(out: Path, record: dict[str, Any]) -> None:
    path = out / RECORD
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    asked, held = ({name: each.get(name) for name in ("model", "removed")} for each in (record, written))
    if asked != held:
        raise SpecError(
            f"{out} holds {held['model']} without blocks {held['removed']}, not {asked['model']} without "
            f"{asked['removed']}; name the folder that was pruned so"
        )
