"""`--overwrite`: the same words and the same refusals wherever a verb fills a place of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.cli.main import main
from loralab.cli.writing import ADAPTER, COMPARISON, MERGED, PRUNED, is_occupied, refuse_other
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


@pytest.mark.parametrize("to", ["loralib", "gguf"])
def test_a_file_is_replaced_by_one_of_its_kind(
    to: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / ("a.gguf" if to == "gguf" else "a.safetensors")
    call = ["convert", "--adapter", str(adapter), "--out", str(place), "--to", to]
    assert main(call) == 0
    before = place.read_bytes()
    assert main(call) == 2
    assert "exists already; choose another place, or give --overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite"]) == 0
    assert len(place.read_bytes()) == len(before)  # safetensors writes its metadata in any order
    place.write_text("my own notes, which are longer than sixteen bytes")
    assert main([*call, "--overwrite"]) == 2
    assert "is no such file of loralab's" in capsys.readouterr().err
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
    refuse_other(tmp_path, COMPARISON)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"more than a comparison: thesis\.tex"):
        refuse_other(tmp_path, COMPARISON)


@pytest.mark.parametrize("kind", [ADAPTER, MERGED, PRUNED], ids=lambda kind: kind.mark)
def test_a_damaged_mark_names_nothing(kind: Any, tmp_path: Path) -> None:
    for content in ("{", "[]", '{"written": 5}', '{"written": [5, {}]}'):
        (tmp_path / kind.mark).write_text(content)
        refuse_other(tmp_path, kind)
        (tmp_path / "x.txt").touch()
        with pytest.raises(OutputError, match=r"x\.txt"):
            refuse_other(tmp_path, kind)
        (tmp_path / "x.txt").unlink()


def test_places(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    occupied = {name: is_occupied(tmp_path / name) for name in ("empty", "new", "broken", ".")}
    assert occupied == {"empty": False, "new": False, "broken": True, ".": True}
