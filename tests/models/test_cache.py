"""Folders that appear whole or not at all, also when processes race or die."""

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from loralab.errors import OutputError
from loralab.models.cache import build_once, cache_folder


def write(draft: Path) -> None:
    (draft / "first").write_text("1")
    (draft / "second").write_text("2")


def test_a_folder_is_built_once(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"
    assert build_once(folder, write) == folder
    assert sorted(file.name for file in folder.iterdir()) == ["first", "second"]
    build_once(folder, lambda draft: pytest.fail("built twice"))
    assert os.listdir(folder.parent) == ["model"]


def test_the_slower_of_two_takes_what_the_faster_made(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def overtaken(draft: Path) -> None:
        write(draft)
        build_once(folder, lambda other: (other / "winner").touch())

    build_once(folder, overtaken)
    assert os.listdir(folder) == ["winner"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    def full(draft: Path) -> None:
        write(draft)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"No space left on device; free some space, or set LORALAB_CACHE"):
        build_once(tmp_path / "model", full)
    assert os.listdir(tmp_path) == []


def _die_halfway(folder: Path) -> None:
    build_once(folder, lambda draft: (write(draft), os._exit(9))[0])


def test_a_killed_process_leaves_no_half_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    process = multiprocessing.get_context("fork").Process(target=_die_halfway, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not folder.exists()
    (abandoned,) = tmp_path.iterdir()
    os.utime(abandoned, (0, time.time() - 2 * 24 * 3600))
    build_once(folder, write)
    assert os.listdir(tmp_path) == ["model"]


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write the cache folder"):
        build_once(tmp_path / "file" / "model", write)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORALAB_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("LORALAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "loralab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "loralab"
