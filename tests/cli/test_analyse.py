"""`loralab analyse …` end to end on small adapters: answers, files, pictures, and the tables for people."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loralab.cli.main import main

Ask = Callable[..., dict[str, Any]]


def pictures_are_whole(answer: dict[str, Any]) -> None:
    for path in answer["files"]:
        if path.endswith(".png"):
            with Image.open(path) as picture:
                assert min(picture.size) >= 300
        else:
            json.loads(Path(path).read_text())


def fits(text: str, *paths: object) -> bool:
    return max(len(line) for line in text.splitlines() if not any(str(path) in line for path in paths)) <= 80


def test_subspace(adapter: Path, tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("analyse", "subspace", adapter, adapter, "--out", tmp_path / "out")
    assert answer["ranks"] == [2, 2]
    assert answer["mean"]["right"]["phi_1_1"] == pytest.approx(1)
    assert answer["mean"]["left"]["phi_all"] == pytest.approx(1)
    pictures_are_whole(answer)
    grids = json.loads((tmp_path / "out/subspace.json").read_text())["modules"]
    assert [len(grids[0]["phi"]), len(grids[0]["phi"][0]), len(grids)] == [2, 2, 8]
    assert main(["analyse", "subspace", str(adapter), str(adapter), "--out", str(tmp_path / "out"), "--overwrite"]) == 0
    assert fits(capsys.readouterr().out, tmp_path)


def test_subspace_of_one_and_its_base(tiny: Path, adapter: Path, tmp_path: Path, ask: Ask) -> None:
    answer = ask("analyse", "subspace", adapter, "--model", tiny, "--out", tmp_path / "out")
    assert (answer["compared"], answer["ranks"]) == (["W", "adapter"], [32, 2])
    pictures_are_whole(answer)


def test_subspace_needs_two(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "subspace", str(adapter), "--out", str(tmp_path)]) == 2
    assert "compares two adapters, or with --model one and its base; 1 were given" in capsys.readouterr().err
    assert main(["analyse", "subspace", "--out", str(tmp_path)]) == 2
    assert "ADAPTERS is needed" in capsys.readouterr().err


def test_spectrum(adapter: Path, tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("analyse", "spectrum", adapter, "--out", tmp_path / "out")
    assert set(answer["kinds"]) == {"q_proj", "v_proj"}
    assert all(0 < each["effective_rank"] <= 2 for each in answer["modules"])
    pictures_are_whole(answer)
    assert main(["analyse", "spectrum", str(adapter), "--out", str(tmp_path / "out"), "--overwrite"]) == 0
    assert fits(capsys.readouterr().out, tmp_path, adapter)


def test_amplification(tiny: Path, adapter: Path, tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["analyse", "amplification", adapter, "--model", tiny, "--out", tmp_path / "out"]
    answer = ask(*flags)
    row = answer["modules"][0]
    assert row["amplification"] == pytest.approx(row["delta_norm"] / row["in_delta"])
    assert row["in_base"] >= row["in_delta"]
    pictures_are_whole(answer)
    assert main([*map(str, flags), "--overwrite"]) == 0
    assert fits(capsys.readouterr().out, tmp_path, adapter)
