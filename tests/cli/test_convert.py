"""`convert --to gguf` end to end: the base that the adapter records, or the one that is named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.cli.main import main
from loralab.formats.gguf import read_gguf

Ask = Callable[..., dict[str, Any]]


def test_to_gguf(adapter: Path, tmp_path: Path, ask: Ask) -> None:
    file = tmp_path / "a.gguf"
    answer = ask("convert", adapter, file, "--to", "gguf")
    assert (answer["dst"], answer["tensors"], answer["lossless"]) == (str(file), 8, True)
    assert answer["max_relative_error"] < 1e-6
    assert set(read_gguf(file).pairs) == {f"blk.{layer}.attn_{part}.weight" for layer in (0, 1) for part in "qv"}


def test_a_base_that_moved_away_is_named_by_a_flag(
    tiny: Path, adapter: Path, tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "copy")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tiny), "/moved/away"))
    assert main(["convert", str(folder), str(tmp_path / "a.gguf"), "--to", "gguf"]) == 2
    assert "give its place with --model" in capsys.readouterr().err
    assert ask("convert", folder, tmp_path / "a.gguf", "--to", "gguf", "--model", tiny)["tensors"] == 8
