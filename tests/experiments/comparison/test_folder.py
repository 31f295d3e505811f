import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import loralab as ll
from loralab.experiments.comparison.cells import settings_of
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.folder import (
    ComparisonFolder,
    earlier_settings,
    held,
    note_process,
    record_settings,
)


@pytest.fixture
def config(tmp_path: Path) -> CompareConfig:
    return CompareConfig(
        model="m", task="t", out=str(tmp_path / "out"), methods=("lora", "full"), method_lr={"full": 1e-5}
    )


@pytest.fixture
def folder(config: CompareConfig) -> ComparisonFolder:
    return ComparisonFolder(Path(config.out))


def test_a_folder_is_gone_on_with(folder: ComparisonFolder, config: CompareConfig) -> None:
    assert earlier_settings(folder, config) is None
    record_settings(folder, config, settings_of(config))
    assert earlier_settings(folder, config) == settings_of(config)
    assert earlier_settings(folder, replace(config, save_every=1, out="elsewhere")) == settings_of(config)


def test_every_difference_is_said(folder: ComparisonFolder, config: CompareConfig) -> None:
    record_settings(folder, config, settings_of(config))
    other = replace(config, steps=5, seeds=(1,), method_lr={"full": 1e-4})
    with pytest.raises(ll.SpecError, match="holds another comparison") as caught:
        earlier_settings(folder, other)
    for difference in ("steps was None and is 5", "seeds was [1, 2, 3] and is [1]", "{'full': 0.0001}"):
        assert difference in str(caught.value)


def test_a_flag_that_is_newer_than_the_folder_was_at_its_default(
    folder: ComparisonFolder, config: CompareConfig
) -> None:
    record_settings(folder, config, settings_of(config))
    content = json.loads((folder.path / "comparison.json").read_text())
    del content["config"]["clip"], content["config"]["seeds"]
    (folder.path / "comparison.json").write_text(json.dumps(content))
    assert earlier_settings(folder, config) == settings_of(config)
    with pytest.raises(ll.SpecError, match=r"clip was 1\.0 and is 2\.0"):
        earlier_settings(folder, replace(config, clip=2.0))


def test_a_folder_of_something_else_is_refused(folder: ComparisonFolder, config: CompareConfig) -> None:
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("mine")
    with pytest.raises(ll.OutputError, match="holds no comparison"):
        earlier_settings(folder, config)


def test_a_comparison_that_never_began_is_no_obstacle(folder: ComparisonFolder, config: CompareConfig) -> None:
    with held(folder):
        pass
    assert earlier_settings(folder, config) is None


def test_a_training_that_was_left_behind_keeps_the_folder(folder: ComparisonFolder) -> None:
    with held(folder) as lock:
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
        note_process(lock, left.pid)
    try:
        with pytest.raises(ll.OutputError, match=rf"in use: .*process {left.pid}"), held(folder):
            pass
    finally:
        left.communicate(b"\n")
    with held(folder):
        assert json.loads(folder.lock.read_text()) == left.pid
