"""The top of the report: who is best, how sure, what cannot be compared, and the next commands."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loralab.analysis.report.collect import collect
from loralab.analysis.report.summary import Summary, summary

Write = Callable[..., Path]


def of(folder: Path) -> Summary:
    return summary(collect([str(folder)]))


def test_seeds_of_a_setting_are_one_line_best_first(write_run: Write, tmp_path: Path) -> None:
    for seed, loss in ((1, 2.0), (2, 2.2), (3, 2.4)):
        write_run(f"r8-{seed}", {"loss": loss}, rank=8, seed=seed)
    write_run("r2", {"loss": 1.0}, rank=2)
    (ranked,) = of(tmp_path).rankings
    assert [row[:4] for row in ranked.table.rows] == [
        [1, "lora, rank 2", "1", 1],
        [2, "lora, rank 8", "2.2 ± 0.2", 3],
    ]
    assert ranked.table.rows[1][5] == "r8-1, r8-2, r8-3"
    assert ranked.sentences[0] == "Best: lora, rank 2, loss 1 with one seed."
    assert "one seed alone" in ranked.sentences[1]


def test_the_tasks_metric_ranks_before_the_loss_and_higher_is_better(write_run: Write, tmp_path: Path) -> None:
    write_run("a", {"accuracy": 40.0, "loss": 0.1}, lr=0.1)
    write_run("b", {"accuracy": 90.0, "loss": 0.9}, lr=0.2)
    (ranked,) = of(tmp_path).rankings
    assert [row[1] for row in ranked.table.rows] == ["lora, rank 4, lr 0.2", "lora, rank 4, lr 0.1"]
    assert "held-out accuracy (higher is better)" in ranked.table.title


def test_settings_within_the_spread_are_level(write_run: Write, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(f"a{seed}", {"loss": 1.0 + seed}, seed=seed)
        write_run(f"b{seed}", {"loss": 1.1 + seed}, seed=seed, rank=2)
        write_run(f"far{seed}", {"loss": 9.0 + seed / 100}, seed=seed, rank=1)
    (ranked,) = of(tmp_path).rankings
    assert "The second, lora, rank 2, differs by less than seeds do" in ranked.sentences[1]


def test_what_cannot_be_compared_is_ranked_apart_and_said(write_run: Write, tmp_path: Path) -> None:
    write_run("a", {"loss": 1.0})
    write_run("task", {"loss": 0.5}, task="e2e")
    write_run("few", {"loss": 0.4}, eval_limit=16)
    write_run("model", {"loss": 0.3}, model="other")
    found = of(tmp_path)
    assert [len(each.table.rows) for each in found.rankings] == [1, 1, 1, 1]
    said = found.sentences[0]
    assert "ranked in 4 tables" in said
    for difference in ("task (jsonl, e2e)", "eval limit (256, 16)", "model (<b>tiny</b>, other)"):
        assert difference in said


def test_accuracies_of_two_models_can_be_compared(write_run: Write, tmp_path: Path) -> None:
    write_run("a", {"accuracy": 60.0})
    write_run("b", {"accuracy": 70.0}, model="other")
    (ranked,) = of(tmp_path).rankings
    assert [row[1] for row in ranked.table.rows] == [
        "lora, rank 4, model other", "lora, rank 4, model <b>tiny</b>",
    ]  # fmt: skip


def test_what_diverged_is_last_and_what_has_not_ended_is_named(write_run: Write, tmp_path: Path) -> None:
    write_run("nan", {"loss": float("nan")}, lr=1.0)
    write_run("good", {"loss": 2.0})
    write_run("running", None)
    write_run("moved", None, out="elsewhere")
    found = of(tmp_path)
    assert [row[2] for row in found.rankings[0].table.rows] == ["2", "not a finite number"]
    assert "Not ranked, since they have not ended: moved, running." in found.sentences
    (resumed,) = [step.command for step in found.steps if "--resume" in step.command]
    assert shlex.split(resumed)[2:] == ["--config", str(tmp_path / "running" / "run.json"), "--resume"]


def test_cut_adapters_are_not_ranked(write_run: Write, write_rank: Callable[[Path, str], Path], tmp_path: Path) -> None:
    write_rank(write_run("r4"), "rank")
    found = of(tmp_path)
    assert len(found.rankings[0].table.rows) == 1
    assert any(each.startswith("Not ranked, since they were cut and not trained") for each in found.sentences)


def test_the_next_commands_follow_from_what_was_done(
    write_run: Write, write_rank: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    run = write_run("a name with spaces", {"loss": 2.0}, model="base", data="my data.jsonl", max_length=64)
    commands = [shlex.split(step.command) for step in of(tmp_path).steps]
    assert ["loralab", "analyse", "rank"] in [command[:3] for command in commands]
    assert all(str(run) in " ".join(command) for command in commands)
    assert commands[0] == ["loralab", "eval", "--config", str(run / "run.json"), "--split", "test"]
    write_rank(run, "rank")
    after = [step.command for step in of(tmp_path).steps]
    assert not any("analyse rank" in command for command in after)
    assert any("--rank 2" in command for command in after)


def test_only_a_test_split_that_is_there_and_chose_nothing_is_measured_on(write_run: Write, tmp_path: Path) -> None:
    def evals(**changes: Any) -> list[str]:
        file = write_run(f"run-{len(list(tmp_path.iterdir()))}", {"loss": 2.0}) / "run.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"splits": changes["splits"]} | {"result": record["result"] | changes}))
        return [step.command for step in of(file.parent).steps if step.command.startswith("loralab eval")]

    assert len(evals(splits=["train", "validation", "test"], held_out={"split": "validation", "examples": 60})) == 1
    assert evals(splits=["train", "validation", "all"]) == [], "as with --validation"
    assert evals(splits=["train", "test"], held_out={"split": "test", "examples": 60}) == []


def test_a_comparison_has_its_best_row(results: Path) -> None:
    found = of(results / "comparison")
    assert found.sentences[0] == "Methods compared: full is best, accuracy 90.00 ± 30.00 over 3 seeds."


def test_a_record_of_an_earlier_version_is_of_the_same_setting(write_run: Write, tmp_path: Path) -> None:
    """It lacks fields that came later; what is not set is no difference."""
    write_run("old", {"loss": 1.0})
    write_run("new", {"loss": 1.2}, seed=1, dropout=None, best_epoch=False, samples=3)
    (ranked,) = of(tmp_path).rankings
    assert [row[:2] for row in ranked.table.rows] == [[1, "lora, rank 4"]]
