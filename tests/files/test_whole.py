"""A file or folder is there whole, or it is as it was."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.errors import OutputError
from loralab.files.drafts import is_ours
from loralab.files.whole import (
    json_text,
    refuse_occupied,
    replacing,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)

Run = Callable[..., Any]


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_half_way(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("half-way")


def test_a_file_is_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "note.txt", "grüße\n")
    assert (tmp_path / "deep" / "note.txt").read_text(encoding="utf-8") == "grüße\n"
    assert only(tmp_path / "deep") == ["note.txt"]


def test_a_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "")
    (tmp_path / "usual").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_json_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert json_text({"b": 1, "a": 2}).index("b") < json_text({"b": 1, "a": 2}).index("a")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError, match="half-way"), whole_file(tmp_path / "a") as temporary:
        fail_half_way(temporary)
    assert (tmp_path / "a").read_text() == "old"
    assert only(tmp_path) == ["a"]


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "sub" / "a").read_text() == "1"
    with pytest.raises(RuntimeError, match="half-way"), whole_folder(tmp_path / "other") as folder:
        fail_half_way(folder / "a")
    assert only(tmp_path) == ["model"]


def test_an_occupied_folder_is_refused_and_an_empty_one_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(OutputError, match="exists already"), whole_folder(tmp_path / "empty"):
        pass
    assert only(tmp_path / "empty") == ["a"]


def test_what_is_replaced_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "model"
    for text in ("1", "2"):
        with replacing(place), whole_folder(place) as folder:
            (folder / f"file-{text}").write_text(text)
            assert text == "1" or [name for name in only(place) if not is_ours(name)] == ["file-1"]
    assert only(tmp_path) == ["model"]
    assert only(place) == ["file-2"]
    with pytest.raises(RuntimeError, match="half-way"), replacing(place), whole_folder(place) as folder:
        fail_half_way(folder / "a")
    assert (only(tmp_path), only(place)) == (["model"], ["file-2"])


def test_leave_to_replace_is_for_one_place_and_what_is_below(tmp_path: Path) -> None:
    for name in ("mine", "yours", "mine/below"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("1")
    with replacing(tmp_path / "mine"):
        refuse_occupied(tmp_path / "mine" / "below")
        with pytest.raises(OutputError, match="exists already"):
            refuse_occupied(tmp_path / "yours")
    with pytest.raises(OutputError, match="exists already"):
        refuse_occupied(tmp_path / "mine")


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="was to be written, but"):
        write_text(tmp_path / "file" / "inside", "x")


FULL_DISK = """
import resource, sys
from pathlib import Path
from loralab.files.whole import whole_file, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
target = Path(sys.argv[1])
try:
    write_text(target, "x" * 5000)
except OSError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_an_output_error_and_the_old_file_stays(tmp_path: Path, run_python: Run) -> None:
    write_text(tmp_path / "a", "old")
    done = run_python(FULL_DISK, str(tmp_path / "a"))
    assert done.stdout.startswith("OutputError")
    assert "Free space" in done.stdout
    assert (tmp_path / "a").read_text() == "old"
    assert only(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from loralab.files.whole import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_in_the_middle_leaves_the_old_file(tmp_path: Path, run_python: Run) -> None:
    write_text(tmp_path / "a", "old")
    assert run_python(KILLED, str(tmp_path / "a")).returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"
