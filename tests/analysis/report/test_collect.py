"""What the report finds in folders, and what it makes of other programs' files and damaged ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.analysis.report.collect import collect
from loralab.analysis.report.summary import summary
from loralab.analysis.report.words import number_text
from loralab.errors import NotFoundError, SpecError

Write = Callable[..., Path]


def test_results_are_found_in_and_below_the_folders(results: Path) -> None:
    found = collect([str(results / "run"), str(results / "comparison"), str(results / "merged")]).sections
    assert [(each.kind, each.title) for each in found] == [
        ("run", "lora, rank 4 on jsonl, seed 0"),
        ("amplification", "What the update amplifies"),
        ("comparison", "Methods compared"),
        ("merge", "A merged model, compared with its live adapter"),
    ]
    run, analysis, comparison, _ = found
    assert (run.facts["held-out loss"], run.facts["trained parameters"]) == (1.25, 1234)
    assert run.drawings[0].legend == {0: "training", 1: "held out"}
    assert analysis.tables[1].columns == ["name", "amplification"]
    assert comparison.tables[0].rows[0] == ["lora r=8", 26_000, "12.00 ± 32.00", 3, 10.0, 1000.0]
    assert comparison.sentences == ["LoRA is enough: held. Accuracy 71.5."], "none of those that were not tested"


def test_a_folder_that_is_named_twice_comes_once(results: Path) -> None:
    assert len(collect([str(results), str(results / "run"), str(results / "run" / ".")]).sections) == 4


def test_a_link_in_a_circle_ends(write_run: Write) -> None:
    run = write_run("run")
    (run / "again").symlink_to(run, target_is_directory=True)
    assert len(collect([str(run)]).sections) == 1


def test_an_unfinished_run_says_so(write_run: Write) -> None:
    (run,) = collect([str(write_run("run", None))]).sections
    assert "has not ended" in run.sentences[0]


def test_a_run_shows_the_base_beside_it_and_its_answers(write_run: Write) -> None:
    folder = write_run("run", {"loss": 1.0})
    record = json.loads((folder / "run.json").read_text())
    samples = [{"prompt": "say", "wanted": "red", "before": "\x11?", "after": "red"}]
    record["result"] |= {"before": {"loss": 4.0}, "samples": samples, "held_out": {"examples": 12}}
    (folder / "run.json").write_text(json.dumps(record))
    (run,) = collect([str(folder)]).sections
    facts = {name: run.facts[name] for name in ("held-out examples", "held-out loss", "loss of the base")}
    assert facts == {"held-out examples": 12, "held-out loss": 1.0, "loss of the base": 4.0}
    assert run.tables[0].rows == [["say", "red", "\x11?", "red"]]
    assert number_text("\x11?") == "\N{REPLACEMENT CHARACTER}?"
    assert any(
        "Measured on 12 held-out examples only: run." in each for each in summary(collect([str(folder)])).sentences
    )


def test_a_cut_adapter_is_no_run(write_run: Write, write_rank: Callable[[Path, str], Path]) -> None:
    """Its run.json is its parent's: none of these figures is its own."""
    rank = write_rank(write_run("r8"), "rank")
    found = {each.folder.name: each for each in collect([str(rank)]).sections}
    assert [found[name].kind for name in ("rank", "truncated", "suggested")] == ["rank", "cut", "cut"]
    truncated, suggested = found["truncated"], found["suggested"]
    assert "held-out loss" not in truncated.facts
    assert truncated.facts["validation loss, measured as it is"] == 5.123
    assert truncated.facts["parameters"] == 617
    assert not truncated.drawings, "nor is the curve"
    assert "was not measured here" in suggested.sentences[1]


def test_losses_that_are_not_numbers_are_left_out_and_said(write_run: Write) -> None:
    folder = write_run("run", {"loss": float("nan"), "accuracy": 50.0})
    with (folder / "metrics.jsonl").open("a") as journal:
        journal.write('{"step": 4, "split": "train", "loss": NaN}\n{"step": 5, "split": "train", "loss": Infinity}\n')
    (run,) = collect([str(folder)]).sections
    assert run.sentences == [
        "2 of 5 training losses are not finite, the first at step 4: they are left out of the curve.",
        "Not a finite number: held-out loss. The run diverged; train with a lower --lr.",
    ]
    assert "nan" not in run.drawings[0].svg


def test_a_journal_that_is_being_written(write_run: Write) -> None:
    folder = write_run("run", None)
    with (folder / "metrics.jsonl").open("a") as journal:
        journal.write('{"step": 4, "split": "tr')
    (run,) = collect([str(folder)]).sections
    assert "last line of its journal is incomplete" in run.sentences[1]
    (folder / "metrics.jsonl").write_text('{"step": \n{"step": 2, "split": "train", "loss": 1.0}\n')
    with pytest.raises(SpecError, match=r"line 1 of .*metrics\.jsonl is not complete JSON"):
        collect([str(folder)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"half": ', "is not complete JSON"),
        ("[1]", "one JSON object, and holds a list"),
        ('{"modules": [{"module": "q", "energy": 3}]}', "damaged, or of another version of loralab"),
    ],
)
def test_damaged_results(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "spectrum.json").write_text(text)
    with pytest.raises(SpecError, match=message):
        collect([str(tmp_path)])


def test_other_programs_files_are_left_aside_and_named(write_run: Write, tmp_path: Path) -> None:
    write_run("run")
    for name, content in (("results.json", {"all_results": []}), ("run.json", {"wandb": 1}), ("rank.json", {})):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "spectrum.png").write_bytes(b"")
    (tmp_path / "notes.json").write_text("anything")
    found = collect([str(tmp_path)])
    assert [each.kind for each in found.sections] == ["run"]
    assert [each.split(" ")[0].rpartition("/")[2] for each in found.ignored] == [
        "run.json", "results.json", "spectrum.png", "rank.json",
    ]  # fmt: skip
    assert "no spectrum.json beside it" in found.ignored[2]


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds nothing that a report shows; .*run\.json, results\.json"):
        collect([str(tmp_path)])
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(SpecError, match=r"results\.json is not a result of loralab, which has rows, metric"):
        collect([str(tmp_path)])
    with pytest.raises(NotFoundError, match="no such folder"):
        collect([str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("ratio", "ends", "verdict"),
    [(0.37, (0.3, 1.0), "noise"), (1.8, (1.7, 1.9), "beyond"), (0.5, (0.4, 0.6), "beyond")],
)
def test_a_slow_down_of_noise_is_called_noise(
    tmp_path: Path, ratio: float, ends: tuple[float, float], verdict: str
) -> None:
    def row(name: str, ratio: float, low: float, high: float) -> dict[str, Any]:
        return {
            "batch": 1, "sequence": 8, "contender": name, "size": 4, "milliseconds": 1.0, "ratio": ratio,
            "ratio_low": low, "ratio_high": high,
        }  # fmt: skip

    noise = {"batch": 1, "sequence": 8, "low": 0.9, "high": 1.4}
    rows = [row("base", 1, 1, 1), row("base-again", 1.1, 0.9, 1.4), row("lora-merged", ratio, *ends)]
    content = {"model": "m", "rounds": 5, "rows": rows, "noise": [noise], "merged_within_noise": verdict == "noise"}
    (tmp_path / "latency.json").write_text(json.dumps(content))
    (section,) = collect([str(tmp_path)]).sections
    assert [row[-1] for row in section.tables[0].rows] == ["", "is the noise", verdict]
    assert (">noise<" in section.drawings[0].svg) is (verdict == "noise")
    (tmp_path / "latency.json").write_text(json.dumps(content | {"rounds": 2}))
    (few,) = collect([str(tmp_path)]).sections
    assert few.tables[0].rows[2][-1] == "not judged"
    assert "2 rounds say nothing of noise" in few.sentences[0]


def test_a_comparison_on_few_examples_says_so(results: Path) -> None:
    file = results / "comparison" / "results.json"
    content = json.loads(file.read_text())
    for row, count in zip(content["rows"], (80, 8), strict=True):
        row["held_out_examples"] = count
    file.write_text(json.dumps(content))
    (comparison,) = collect([str(results / "comparison")]).sections
    assert comparison.sentences[0].startswith("Measured on 8 examples only: such figures are loose")


def test_bars_end_where_the_metric_does(results: Path) -> None:
    """Accuracy 12 ± 32 and 90 ± 30 are no −20 and no 120."""
    (comparison,) = collect([str(results / "comparison")]).sections
    (over_parameters,) = comparison.drawings
    assert 'data-low="0" data-high="44"' in over_parameters.svg
    assert 'data-low="60" data-high="100"' in over_parameters.svg
    assert not {">−20<", ">120<"} & set(over_parameters.svg.split("text"))
    assert "log10" not in over_parameters.svg
    assert ">100k</text>" in over_parameters.svg
