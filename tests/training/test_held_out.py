"""Measurements that choose the adapter never look at the test split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loralab as ll
from loralab.tasks.table import open_task
from loralab.tasks.task import Task
from loralab.training.held_out import held_out_split, with_validation

Configure = Callable[..., ll.TrainConfig]


def lay(folder: Path, **counts: int) -> str:
    folder.mkdir()
    for split, count in counts.items():
        rows = [{"prompt": f"{split} {number}:", "completion": "abc"} for number in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def prompts(task: Task, split: str) -> set[str]:
    return {example.prompt for example in task.examples(split)}


def measured_splits(config: ll.TrainConfig) -> set[str]:
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    return {entry["split"] for entry in map(json.loads, lines)} - {"train"}


@pytest.mark.parametrize("choice", [{"best_epoch": True}, {"eval_every": 1, "early_stop": 1}])
@pytest.mark.parametrize("name", ["valid", None])
def test_the_choice_falls_on_validation_or_on_a_part_of_training(
    tmp_path: Path, configured: Configure, choice: dict[str, Any], name: str | None
) -> None:
    data = lay(tmp_path / "data", train=40, test=4, **({name: 4} if name else {}))
    config = configured(data=data, steps=3, eval_limit=2, **choice)
    result = ll.train(config)
    assert measured_splits(config) == {"validation"}
    assert result.metrics
    notes = json.loads((Path(config.out) / "run.json").read_text())["notes"]
    held_out = [note for note in notes if "2 of 40 training examples are held out" in note]
    assert len(held_out) == (name is None)


def test_without_a_choice_the_test_split_is_measured_at_the_end(tmp_path: Path, configured: Configure) -> None:
    config = configured(data=lay(tmp_path / "data", train=8, test=4), steps=2)
    ll.train(config)
    assert measured_splits(config) == {"test"}


def test_what_is_held_out_is_not_trained_on(tmp_path: Path, configured: Configure) -> None:
    config = configured(data=lay(tmp_path / "data", train=40, test=4), best_epoch=True)
    task = with_validation(open_task("jsonl", config.data), config)
    assert prompts(task, "train").isdisjoint(prompts(task, "validation"))
    assert len(prompts(task, "train") | prompts(task, "validation")) == 40
    assert held_out_split(task) == "validation"


def test_nothing_to_hold_out(tmp_path: Path, configured: Configure) -> None:
    config = configured(data=lay(tmp_path / "data", train=1, test=4), best_epoch=True)
    with pytest.raises(ll.DataError, match="no validation split to choose the adapter by, and 1 training input"):
        ll.train(config)
