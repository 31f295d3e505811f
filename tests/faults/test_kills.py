"""`kill -9` before any operation on files: the old or the new is there, whole, and the next writer tidies up."""

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import loralab as ll
from faults.killing import Files, every_kill, files_of, killed, leftovers
from loralab.files import commit
from loralab.files.commit import settle
from loralab.files.drafts import draft_folder
from loralab.files.whole import replacing, whole_changes, whole_file, whole_folder
from loralab.formats.convert import convert
from loralab.training.folder import RunFolder, clear
from toys import TOYS, give_effect


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed leaves the disk's cache alone: waiting for the disk would only take time here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=[pytest.param("exchanged", marks=pytest.mark.faults), "written down"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system that lets folders change places, and one that does not."""
    if request.param == "written down":
        monkeypatch.setattr(commit, "exchange", lambda left, right: False)
    return str(request.param)


@dataclass
class Place:
    """A folder that is written again and again."""

    folder: Path
    before: Path

    def restore(self) -> None:
        """As it was before, with nothing else beside it."""
        for each in self.folder.parent.iterdir():
            shutil.rmtree(each)
        if self.before.exists():
            shutil.copytree(self.before, self.folder)


def place_for(tmp_path: Path, write: Callable[[Path], object] | None) -> Place:
    (tmp_path / "work").mkdir()
    if write is not None:
        write(tmp_path / "before")
    return Place(tmp_path / "work" / "place", tmp_path / "before")


def old_or_new(place: Place, write: Callable[[], object], new: Files, open_it: Callable[[], object]) -> None:
    """Killed anywhere, what is in the place is what was there or what was to be; the next writer leaves nothing."""
    old, seen = files_of(place.before), set()
    for _ in every_kill(write, place.folder.parent, place.restore):
        if place.folder.exists():
            open_it()
        found = files_of(place.folder)
        assert found in (old, new), f"{sorted(found)} is neither {sorted(old)} nor {sorted(new)}"
        seen.add(found == new)
        write()
        assert files_of(place.folder) == new
        assert leftovers(place.folder.parent) == []
    assert seen == {False, True}


def written(path: Path, text: str) -> None:
    with whole_folder(path) as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "inner").write_text(text)
        (draft / text).write_text(text)


def test_a_folder_that_replaces_another(tmp_path: Path, system: str) -> None:
    place = place_for(tmp_path, lambda path: written(path, "old"))
    written(tmp_path / "new", "new")

    def write() -> None:
        with replacing(place.folder):
            written(place.folder, "new")

    old_or_new(place, write, files_of(tmp_path / "new"), lambda: settle(place.folder))


def test_a_folder_where_none_was(tmp_path: Path) -> None:
    place = place_for(tmp_path, None)
    written(tmp_path / "new", "new")

    def write() -> None:
        with replacing(place.folder):
            written(place.folder, "new")

    old_or_new(place, write, files_of(tmp_path / "new"), lambda: None)


def test_a_file(tmp_path: Path) -> None:
    def before(path: Path) -> None:
        path.mkdir()
        (path / "a").write_text("old" * 1000)

    place = place_for(tmp_path, before)

    def write() -> None:
        with whole_file(place.folder / "a") as draft:
            draft.write_text("new" * 1000)

    old_or_new(place, write, {"a": b"new" * 1000}, lambda: None)


def test_entries_that_change_together_and_what_stays(tmp_path: Path, system: str) -> None:
    def before(path: Path) -> None:
        (path / "kept" / "deep").mkdir(parents=True)
        (path / "goes").mkdir()
        for name in ("mine.txt", "kept/deep/a", "goes/b", "changes", "last"):
            (path / name).write_text("old")

    place = place_for(tmp_path, before)

    def write() -> None:
        with whole_changes(place.folder, "last") as changes:
            changes.remove("goes", "never there")
            (changes.new / "changes").write_text("new")
            (changes.new / "last").write_text("new")

    new = {"mine.txt": b"old", "kept/deep/a": b"old", "changes": b"new", "last": b"new"}
    old_or_new(place, write, new, lambda: settle(place.folder))


def test_a_reader_that_knows_no_plan_finds_no_marker_rather_than_a_mixture(tmp_path: Path, system: str) -> None:
    """PEFT opens adapter_config.json first: where it is, all beside it is of the same save."""

    def before(path: Path) -> None:
        path.mkdir()
        for name in ("config", "tensors", "other"):
            (path / name).write_text("old")

    place = place_for(tmp_path, before)

    def write() -> None:
        with whole_changes(place.folder, "config") as changes:
            for name in ("config", "tensors", "other"):
                (changes.new / name).write_text("new")

    for _ in every_kill(write, place.folder.parent, place.restore):
        found = files_of(place.folder)
        assert "config" not in found or len(set(found.values())) == 1
        assert system == "written down" or len(found) == 3


SPECS: dict[str, Callable[[], object]] = {
    "lora": lambda: ll.LoRA(rank=2, targets=["inner"]),
    "multilora": lambda: ll.MultiLoRA(rank=2, modules=2, targets=["inner"]),
}


def adapter_over(model: nn.Module, spec: str, seed: int) -> ll.Adapter:
    torch.manual_seed(seed)
    adapter = ll.attach(model, SPECS[spec]())
    give_effect(adapter)
    return adapter


@pytest.mark.parametrize("specs", [("lora", "lora"), ("multilora", "lora"), ("lora", "multilora")], ids=str)
def test_an_adapter_saved_over_another(tmp_path: Path, system: str, specs: tuple[str, str]) -> None:
    model = TOYS["linear"].build()
    fresh = copy.deepcopy(model)
    first = adapter_over(model, specs[0], 1)
    place = place_for(tmp_path, lambda path: ll.save(first, path))
    (place.before / "README.md").write_text("mine")
    ll.detach(model)
    second = adapter_over(model, specs[1], 2)
    shutil.copytree(place.before, tmp_path / "new")
    ll.save(second, tmp_path / "new")

    def open_it() -> None:
        ll.load(fresh, place.folder)
        ll.detach(fresh)

    old_or_new(place, lambda: ll.save(second, place.folder), files_of(tmp_path / "new"), open_it)


def test_an_adapter_saved_where_none_was(tmp_path: Path) -> None:
    model = TOYS["linear"].build()
    fresh = copy.deepcopy(model)
    adapter = adapter_over(model, "lora", 1)
    place = place_for(tmp_path, None)
    ll.save(adapter, tmp_path / "new")

    def open_it() -> None:
        ll.load(fresh, place.folder)
        ll.detach(fresh)

    old_or_new(place, lambda: ll.save(adapter, place.folder), files_of(tmp_path / "new"), open_it)


def test_a_converted_folder_that_replaces_another(tmp_path: Path, system: str) -> None:
    model = TOYS["linear"].build()
    ll.save(adapter_over(model, "lora", 1), tmp_path / "source")
    place = place_for(tmp_path, lambda path: written(path, "old"))

    def write(target: Path = place.folder) -> None:
        with replacing(target):
            convert(tmp_path / "source", target, "peft")

    write(tmp_path / "new")
    old_or_new(place, write, files_of(tmp_path / "new"), lambda: settle(place.folder))


def test_a_run_that_begins_anew(tmp_path: Path, system: str) -> None:
    """--overwrite: the earlier run is whole until the folder is the new one's."""

    def before(path: Path) -> None:
        for name in (
            "run.json",
            "adapter_config.json",
            "adapter_model.safetensors",
            "checkpoints/step-00000001/a",
            "my",
        ):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text("old")

    place = place_for(tmp_path, before)
    new = {"run.json": b"{}", "my": b"old"}
    old_or_new(place, lambda: clear(RunFolder(place.folder), "{}"), new, lambda: settle(place.folder))


def test_a_draft_of_somebody_at_work_is_left_alone_and_one_of_a_dead_process_is_not(tmp_path: Path) -> None:
    with draft_folder(tmp_path, "a") as mine:
        assert killed(lambda: written(tmp_path / "a", "new"), tmp_path, 6)
        assert len(list(tmp_path.iterdir())) == 2
        written(tmp_path / "a", "new")
        assert {each.name for each in tmp_path.iterdir()} == {mine.name, "a"}


def test_what_is_planned_in_a_stranger_s_folder_stays_inside_it(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    for removed in ("../outside", "/etc", "a/../../outside"):
        folder = tmp_path / "adapter"
        (folder / commit.COMMIT_NAME / "new").mkdir(parents=True)
        (folder / commit.COMMIT_NAME / "plan.json").write_text(f'{{"removed": ["{removed}"], "marker": null}}')
        with pytest.raises(ll.AdapterFileError, match="outside of its folder"):
            settle(folder)
        shutil.rmtree(folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").write_text("mine")
    (folder / commit.COMMIT_NAME).mkdir(parents=True)
    (folder / commit.COMMIT_NAME / "new").symlink_to(tmp_path / "elsewhere")
    settle(folder)
    assert files_of(tmp_path) == {"outside": b"mine", "elsewhere/theirs": b"mine"}
