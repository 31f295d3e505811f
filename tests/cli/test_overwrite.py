"""`--overwrite`: the same words and the same refusals wherever a verb fills a place of its own."""

import importlib
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from loralab.cli.main import main
from loralab.cli.table import modules
from loralab.cli.writing import ADAPTER, COMPARISON, MERGED, PRUNED, Product
from loralab.errors import OutputError

WRITING: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "merge": lambda model, adapter, out: ["merge", "--model", model, "--adapter", adapter, "--out", out],
    "convert": lambda model, adapter, out: ["convert", adapter, out, "--to", "peft"],
    "resize": lambda model, adapter, out: ["analyse", "resize", adapter, "--rank", 1, "--out", out],
    "prune": lambda model, adapter, out: [
        *("analyse", "prune", "--model", model, "--n", 0, "--out", out),
        *("--task", "none", "--pieces", 2, "--dtype", "float32"),
    ],
}
"""Verb -> a call of it that writes a folder."""


READING = {("score",)}
"""Verbs that read outputs."""

AMONG: dict[str, Callable[[Path, Path, Path, Path], list[object]]] = {
    "amplification": lambda model, adapter, data, out: [adapter, "--model", model, "--out", out],
    "angular": lambda model, adapter, data, out: ["--model", model, "--samples", 2, "--csv", "--out", out],
    "doctor": lambda model, adapter, data, out: [adapter, "--out", out],
    "forgetting": lambda model, adapter, data, out: [
        *("--model", model, "--adapter", adapter, "--task", "jsonl", "--data", data, "--limit", 2, "--out", out),
        *("--tokens", 64, "--window", 32),
    ],
    "linearity": lambda model, adapter, data, out: ["--model", model, "--chunks", 4, "--out", out],
    "matrices": lambda model, adapter, data, out: [
        *("--model", model, "--adapter", adapter, "--task", "jsonl", "--data", data, "--limit", 2, "--out", out),
    ],
    "rank": lambda model, adapter, data, out: [
        *("--model", model, "--adapter", adapter, "--task", "jsonl", "--data", data, "--limit", 2, "--out", out),
    ],
    "spectrum": lambda model, adapter, data, out: [adapter, "--out", out],
    "subspace": lambda model, adapter, data, out: [adapter, adapter, "--out", out],
}
"""Analysis -> a call of it that writes its files among others."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", WRITING)
def test_what_a_verb_wrote_it_replaces_and_nothing_else(
    verb: str, tiny: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "out"
    call = [*map(str, WRITING[verb](tiny, adapter, place))]
    assert main(call) == 0
    before = files(place)
    capsys.readouterr()
    assert main(call) == 2
    assert f"{place} exists already; choose another place, or give --overwrite" in capsys.readouterr().err
    (spoilt := next(place.glob("*.safetensors"))).write_bytes(b"spoilt")
    assert main([*call, "--overwrite"]) == 0
    assert files(place)[spoilt.name] == before[spoilt.name]
    assert files(place).keys() == before.keys()
    (place / "mine.txt").write_text("mine")
    held = files(place)
    capsys.readouterr()
    assert main([*call, "--overwrite"]) == 2
    assert "mine.txt; --overwrite leaves it alone" in capsys.readouterr().err
    assert files(place) == held
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("verb", WRITING)
def test_a_folder_of_another_kind_is_left_alone(
    verb: str, tiny: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base model, and the run that an adapter comes from."""
    for theirs in (tiny, adapter):
        place = tmp_path / theirs.name
        shutil.copytree(theirs, place)
        held = files(place)
        assert main([*map(str, WRITING[verb](tiny, adapter, place)), "--overwrite"]) == 2
        assert "--overwrite leaves it alone" in capsys.readouterr().err
        assert files(place) == held


@pytest.mark.parametrize("analysis", AMONG)
def test_an_analysis_replaces_its_own_files_only_where_that_is_asked(
    analysis: str, tiny: Path, adapter: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["analyse", analysis, *map(str, AMONG[analysis](tiny, adapter, data, tmp_path))]
    (tmp_path / "notes.txt").write_text("mine")
    assert main(call) == 0
    before = files(tmp_path)
    (written := tmp_path / f"{analysis}.json").write_text("an earlier answer")
    capsys.readouterr()
    assert main(call) == 2
    assert "already; choose another place, or give --overwrite to replace" in capsys.readouterr().err
    assert written.read_text() == "an earlier answer"
    assert main([*call, "--overwrite"]) == 0
    assert files(tmp_path).keys() == before.keys()
    assert files(tmp_path)["notes.txt"] == b"mine"
    assert written.read_bytes() != b"an earlier answer"


def test_what_the_new_call_does_not_write_is_taken_away(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of other distances than those in the new angular.json."""
    call = ["analyse", "angular", "--model", str(tiny), "--samples", "2", "--out", str(tmp_path)]
    assert main([*call, "--csv"]) == 0
    assert main([*call, "--overwrite"]) == 0
    assert sorted(files(tmp_path)) == ["angular.json", "angular.png"]
    (tmp_path / "angular.csv").symlink_to(tiny / "config.json")
    capsys.readouterr()
    assert main([*call, "--overwrite"]) == 2
    assert "angular.csv is not what this verb writes" in capsys.readouterr().err
    assert (tiny / "config.json").is_file()


def test_pages_and_predictions_are_replaced_only_by_their_kind(
    tiny: Path, adapter: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, outputs = tmp_path / "report.html", tmp_path / "outputs.txt"
    task = ["--task", "jsonl", "--data", str(data), "--split", "validation", "--limit", "2"]
    generate = ["--generate", "--max-new-tokens", "2", "--predictions"]
    calls = {
        page: ["analyse", "report", str(adapter), "--out", str(page)],
        outputs: ["eval", "--model", str(tiny), *task, *generate, str(outputs)],
    }
    for place, call in calls.items():
        assert main(call) == 0
        before = place.read_bytes()
        capsys.readouterr()
        assert main(call) == 2
        assert f"{place} exists already" in capsys.readouterr().err
        assert main([*call, "--overwrite"]) == 0
        assert place.read_bytes() == before
        place.write_bytes(b"\0 of another kind")
        assert main([*call, "--overwrite"]) == 2
        assert "--overwrite leaves it alone" in capsys.readouterr().err


def test_outputs_do_not_take_the_place_of_the_data(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copy(data, tmp_path / "mine.jsonl")
    held = mine.read_bytes()
    call = ["eval", "--model", str(tiny), "--task", "jsonl", "--data", str(mine), "--limit", "2", "--generate"]
    assert main([*call, "--predictions", str(mine), "--overwrite"]) == 2
    assert "holds what is read" in capsys.readouterr().err
    assert mine.read_bytes() == held


@pytest.mark.parametrize("words", modules(), ids=" ".join)
def test_every_verb_that_writes_a_place_of_its_own_takes_the_flag(words: tuple[str, ...]) -> None:
    names = {field.name for field in fields(importlib.import_module(modules()[words]).VERB.config)}
    assert "overwrite" in names or not names & {"out", "dst", "predictions"} or words in READING


@pytest.mark.parametrize(("to", "what"), [("loralib", "a loralib checkpoint"), ("gguf", "a GGUF file")])
def test_a_file_is_replaced_by_one_of_its_kind(
    to: str, what: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / ("a.gguf" if to == "gguf" else "a.safetensors")
    call = ["convert", "--adapter", str(adapter), "--out", str(place), "--to", to]
    assert main(call) == 0
    before = place.read_bytes()
    assert main(call) == 2
    assert "exists already; choose another place, or give --overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite"]) == 0
    assert place.read_bytes() == before
    place.write_text("my own notes, which are longer than sixteen bytes")
    assert main([*call, "--overwrite"]) == 2
    assert f"is not {what}" in capsys.readouterr().err
    assert place.read_text().startswith("my own notes")


def test_what_is_read_is_not_replaced(
    tiny: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, merged = tmp_path / "cut", tmp_path / "merged"
    assert main(["analyse", "resize", str(adapter), "--rank", "1", "--out", str(cut)]) == 0
    assert main(["merge", "--model", str(tiny), "--adapter", str(adapter), "--out", str(merged)]) == 0
    calls = [
        ["analyse", "resize", str(cut), "--rank", "1", "--out", str(cut)],
        ["convert", str(cut), f"{cut}/", "--to", "peft"],
        ["merge", "--model", str(merged), "--adapter", str(adapter), "--out", str(merged), "--allow-other-base"],
    ]
    held = files(tmp_path)
    for call in calls:
        capsys.readouterr()
        assert main([*call, "--overwrite"]) == 2
        assert "holds what is read" in capsys.readouterr().err
    assert files(tmp_path) == held


def test_a_failure_leaves_the_earlier_one(
    tiny: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "merged"
    call = ["merge", "--model", str(tiny), "--out", str(place), "--overwrite"]
    assert main([*call, "--adapter", str(adapter)]) == 0
    held = files(place)
    assert main([*call, "--adapter", str(tmp_path / "nowhere")]) == 2
    assert files(place) == held


def test_comparisons_are_told_from_other_folders(tmp_path: Path) -> None:
    for name in ("comparison.json", "results.json", "table.md", "lock", "ranks.png"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "cells").mkdir()
    COMPARISON.refuse_other(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"more than a comparison: thesis\.tex"):
        COMPARISON.refuse_other(tmp_path)


@pytest.mark.parametrize("kind", [ADAPTER, MERGED, PRUNED], ids=lambda kind: kind.mark)
def test_a_damaged_mark_names_nothing(kind: Product, tmp_path: Path) -> None:
    for content in ("{", "[]", '{"written": 5}', '{"written": [5, {}]}'):
        (tmp_path / kind.mark).write_text(content)
        kind.refuse_other(tmp_path)
        (tmp_path / "x.txt").touch()
        with pytest.raises(OutputError, match=r"x\.txt"):
            kind.refuse_other(tmp_path)
        (tmp_path / "x.txt").unlink()


def test_places(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    occupied = {name: bool(ADAPTER.occupied(tmp_path / name)) for name in ("empty", "new", "broken", ".")}
    assert occupied == {"empty": False, "new": False, "broken": True, ".": True}
