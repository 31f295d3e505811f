"""`analyse doctor` reports, its exit status tells a script whether the adapter is broken; `inspect` shows the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loralab.cli.main import main

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def broken(adapter: Path, tmp_path: Path) -> Path:
    """A copy of the adapter with NaN in it and a target that it does not have."""
    folder = shutil.copytree(adapter, tmp_path / "broken")
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    content = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(content | {"target_modules": ["q_proj", "x_proj"]}))
    return folder


def test_a_sound_adapter(tiny: Path, adapter: Path, tmp_path: Path, ask: Ask) -> None:
    answer = ask("analyse", "doctor", adapter)
    assert (answer["healthy"], answer["findings"], answer["modules"]) == (True, [], 4)
    answer = ask("analyse", "doctor", adapter, "--model", tiny, "--dtype", "float32", "--out", tmp_path / "out")
    assert answer["healthy"]
    assert json.loads((tmp_path / "out" / "doctor.json").read_text()) == answer


def test_a_broken_one_is_reported_with_exit_status_2(
    broken: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyse", "doctor", str(broken), "--json"]) == 2
    said = capsys.readouterr()
    answer = json.loads(said.out.splitlines()[-1])
    assert not answer["healthy"]
    assert {each["where"] for each in answer["findings"]} >= {"adapter_config.json", "loralab.json"}
    assert all(each.keys() == {"severity", "where", "what", "advice"} for each in answer["findings"])
    assert "error:" not in said.err
    assert main(["analyse", "doctor", str(broken), "--model", str(tiny)]) == 2
    printed = capsys.readouterr().out
    assert "NOT healthy" in printed
    assert "1 tensors hold NaN" in printed
    assert "→" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80


def test_a_configuration_that_is_not_json_is_reported_too(
    broken: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (broken / "adapter_config.json").write_text("{")
    assert main(["analyse", "doctor", str(broken), "--model", str(tiny), "--json"]) == 2
    assert "is not JSON" in capsys.readouterr().out


def test_where_there_is_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "doctor", str(tmp_path / "nothing")]) == 2
    assert "error: " in capsys.readouterr().err


def test_inspect_shows_the_findings(
    adapter: Path, tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("inspect", adapter)["findings"] == []
    folder = shutil.copytree(adapter, tmp_path / "plain", ignore=shutil.ignore_patterns("loralab.json"))
    found = ask("inspect", folder)["findings"]
    assert [(each["severity"], each["where"]) for each in found] == [("note", "loralab.json")]
    assert main(["inspect", str(folder)]) == 0
    assert "cannot be checked" in capsys.readouterr().out
