"""What users hold out themselves: no input is on two sides, and what is measured is what they gave."""

import json
from pathlib import Path

import pytest

import loralab as ll
from loralab.tasks.held_out import Holdout, draw_share
from loralab.tasks.own.inputs import input_of
from loralab.tasks.table import open_task
from loralab.tasks.task import Task


def write(path: Path, prompts: list[str]) -> str:
    path.write_text("".join(json.dumps({"prompt": each, "completion": f"{each}!"}) + "\n" for each in prompts))
    return str(path)


def inputs(task: Task, split: str) -> list[str]:
    return [input_of(each) for each in task.examples(split)]


def test_a_share_keeps_all_examples_of_an_input_together_and_depends_on_the_seed(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", [f"p{n % 20}" for n in range(100)])
    sides = []
    for seed in (0, 1):
        task = open_task("jsonl", data, held_out=Holdout(share=0.25, seed=seed))
        train, held = inputs(task, "train"), inputs(task, "validation")
        assert set(train).isdisjoint(held)
        assert (len(train), len(held)) == (75, 25)
        assert "test" not in task.splits
        sides.append(set(held))
    assert sides[0] != sides[1]


def test_a_share_is_taken_from_training_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [f"p{n}" for n in range(10)])
    write(tmp_path / "test.jsonl", ["t"])
    task = open_task("jsonl", str(tmp_path), held_out=Holdout(share=0.1))
    assert (len(task.examples("train")), len(task.examples("validation")), inputs(task, "test")) == (9, 1, ["t"])
    write(tmp_path / "dev.jsonl", ["d"])
    with pytest.raises(ll.SpecError, match="has the split validation already"):
        open_task("jsonl", str(tmp_path), held_out=Holdout(share=0.1))


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_data_of_their_own_leave_all_of_a_single_file_for_training(tmp_path: Path, layout: str) -> None:
    data = write(tmp_path / "d.jsonl", [f"p{n}" for n in range(40)])
    (tmp_path / "v").mkdir()
    own = write(tmp_path / "v" / "valid.jsonl", ["x", "p3", "y"])
    task = open_task("jsonl", data, held_out=Holdout(path=own if layout == "file" else str(tmp_path / "v")))
    assert len(task.examples("train")) == 40
    assert inputs(task, "validation") == ["x", "p3", "y"]
    assert any("1 of them are training inputs too" in note for note in task.notes)
    assert not any("by a hash" in note for note in task.notes)
    assert {path.name for path in task.files} == {"d.jsonl", "valid.jsonl"}


def test_classes_of_validation_are_numbered_as_in_training(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"t{n},{'ab'[n % 2]}\n" for n in range(20)))
    (tmp_path / "v.csv").write_text("text,label\nx,b\n")
    task = open_task("jsonl", str(tmp_path / "d.csv"), held_out=Holdout(path=str(tmp_path / "v.csv")))
    assert task.labels == ("a", "b")
    assert [each.label for each in task.examples("validation")] == [1]
    (tmp_path / "v.csv").write_text("text,label\nx,c\n")
    with pytest.raises(ll.DataError, match="line 2: the label 'c' is not one of"):
        open_task("jsonl", str(tmp_path / "d.csv"), held_out=Holdout(path=str(tmp_path / "v.csv")))


def test_other_data_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", [f"p{n}" for n in range(9)])
    (tmp_path / "v.jsonl").write_text('{"text": "alone"}\n')
    with pytest.raises(ll.DataError, match="holds texts alone, the data hold prompts with completions"):
        open_task("jsonl", data, held_out=Holdout(path=str(tmp_path / "v.jsonl")))
    with pytest.raises(ll.NotFoundError):
        open_task("jsonl", data, held_out=Holdout(path=str(tmp_path / "none.jsonl")))


def test_one_input_cannot_be_shared_out(tmp_path: Path) -> None:
    examples = open_task("jsonl", write(tmp_path / "d.jsonl", ["a", "a"])).examples("train")
    with pytest.raises(ll.DataError, match="1 distinct input, of which none can be held out"):
        draw_share(examples, 0.5, 0)
