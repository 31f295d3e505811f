"""Which content is behind a name, and which folders may be read at all."""

import os
import shutil
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

import loralab as ll
from loralab.errors import AdapterFileError, AdapterStateError, LoralabError, SpecError, UnknownAdapterError
from loralab.serving import registry as registry_module
from loralab.serving.engine.bank import Pairs
from loralab.serving.pairs import read_pairs
from loralab.serving.registry import Registry
from serving.causal import causal
from toys import give_effect


def write(model: PreTrainedModel, path: Path, spec: object | None = None, seed: int = 0) -> Path:
    """An adapter that does something, in a folder of its own."""
    torch.manual_seed(seed)
    adapter = ll.attach(model, spec or ll.LoRA(rank=2, targets=["q_proj", "v_proj"]), name="a")  # type: ignore[arg-type]
    give_effect(adapter)
    ll.save(adapter, path, overwrite=True) if path.exists() else ll.save(adapter, path)
    ll.detach(model)
    return path


@pytest.fixture
def model() -> PreTrainedModel:
    return causal("llama")


@pytest.fixture
def folder(tmp_path: Path, model: PreTrainedModel) -> Path:
    for seed, name in enumerate(("one", "two")):
        write(model, tmp_path / "adapters" / name, seed=seed)
    (tmp_path / "adapters" / "no adapter").mkdir()
    (tmp_path / "adapters" / "file.txt").write_text("x")
    return tmp_path / "adapters"


def test_folders_with_an_adapter_are_names(model: PreTrainedModel, folder: Path) -> None:
    assert Registry(model, folder).names() == ["one", "two"]
    assert Registry(model, None).names() == []


def test_pairs_are_what_the_adapter_computes(model: PreTrainedModel, folder: Path) -> None:
    version = Registry(model, folder).version("one")
    adapter = ll.load(model, folder / "one")
    for path, update in adapter.updates.items():
        for found, own in zip(version.pairs[path], update.settled_factors(), strict=True):  # type: ignore[operator]
            torch.testing.assert_close(found, own)
    assert version.rank == 2


def test_a_folder_that_changes_is_another_version(model: PreTrainedModel, folder: Path) -> None:
    gone: list[str] = []
    registry = Registry(model, folder, evicted=gone.append)
    before = registry.version("one")
    assert registry.version("one") is before
    write(model, folder / "one", seed=5)
    after = registry.version("one")
    assert after.key != before.key
    assert gone == [before.key]  # old versions do not pile up


def test_those_used_last_are_kept(model: PreTrainedModel, folder: Path) -> None:
    gone: list[str] = []
    registry = Registry(model, folder, in_memory=1, evicted=gone.append)
    first = registry.version("one")
    registry.version("two")
    assert gone == [first.key]
    assert registry.version("one").key == first.key


def test_two_names_of_one_content_are_two_adapters(model: PreTrainedModel, folder: Path) -> None:
    registry = Registry(model, folder)
    registry.add("again", "one")
    assert registry.version("again").key != registry.version("one").key
    assert registry.names() == ["again", "one", "two"]
    registry.remove("again")
    with pytest.raises(UnknownAdapterError, match="'again'"):
        registry.version("again")
    assert registry.version("one").name == "one"


def test_what_is_taken_away_comes_back_when_it_is_loaded(model: PreTrainedModel, folder: Path) -> None:
    registry = Registry(model, folder)
    registry.remove("one")
    assert registry.names() == ["two"]
    with pytest.raises(UnknownAdapterError):
        registry.remove("one")
    registry.add("one", "one")
    assert registry.names() == ["one", "two"]


@pytest.mark.parametrize("name", ["", "../one", "a/b", ".hidden", "a b", "x" * 129, "ä"])
def test_names_follow_a_pattern(model: PreTrainedModel, folder: Path, name: str) -> None:
    with pytest.raises(SpecError, match="lora_name"):
        Registry(model, folder).add(name, "one")
    with pytest.raises(UnknownAdapterError):
        Registry(model, folder).version(name)


@pytest.mark.parametrize("path", ["..", "../outside", "/", ".", "one/../../outside"])
def test_nothing_outside_of_the_folder_is_read(model: PreTrainedModel, folder: Path, path: str) -> None:
    write(model, folder.parent / "outside")
    with pytest.raises(SpecError, match="outside"):
        Registry(model, folder).add("x", path)


def test_a_link_out_of_the_folder_is_refused(model: PreTrainedModel, folder: Path) -> None:
    outside = write(model, folder.parent / "outside")
    (folder / "link").symlink_to(outside)
    registry = Registry(model, folder)
    with pytest.raises(SpecError, match="outside"):
        registry.version("link")
    shutil.copytree(folder / "one", folder / "half")
    os.remove(folder / "half" / "adapter_model.safetensors")
    (folder / "half" / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    with pytest.raises(SpecError, match="link"):
        registry.version("half")


def test_a_folder_that_vanishes_fails_alone(model: PreTrainedModel, folder: Path) -> None:
    registry = Registry(model, folder)
    registry.version("one")
    shutil.rmtree(folder / "one")
    with pytest.raises(LoralabError, match="one"):
        registry.version("one")
    assert registry.version("two").name == "two"


def test_a_load_that_fails_leaves_no_name(model: PreTrainedModel, folder: Path) -> None:
    shutil.copytree(folder / "one", folder / "bad")
    (folder / "bad" / "adapter_model.safetensors").write_bytes(b"12345678901234567890")
    registry = Registry(model, folder)
    with pytest.raises(AdapterFileError):
        registry.add("fresh", "bad")
    assert "fresh" not in registry.names()


def test_one_that_does_nothing_is_refused(model: PreTrainedModel, folder: Path) -> None:
    ll.save(ll.attach(model, ll.LoRA(rank=2, targets=["q_proj"]), name="a"), folder / "idle")
    ll.detach(model)
    with pytest.raises(AdapterFileError, match="does nothing"):
        Registry(model, folder).version("idle")


@pytest.mark.parametrize(
    "spec, why",
    [
        (ll.LoRA(rank=2, targets=["q_proj"], magnitude=True), "DoRA"),
        (ll.PrefixEmbedding(prefix=2), "kind"),
        (ll.BitFit(), "trained in full"),
        (ll.LoRA(rank=2, targets=["embed_tokens"]), "embedding"),
    ],
    ids=["dora", "prefix", "bitfit", "embedding"],
)
def test_what_has_no_plain_pair_is_refused_by_name(
    model: PreTrainedModel, folder: Path, spec: object, why: str
) -> None:
    if isinstance(spec, ll.BitFit):
        model = causal("learned positions")
    write(model, folder / "other", spec)
    with pytest.raises(AdapterStateError, match=why):
        Registry(model, folder).version("other")


@pytest.mark.parametrize(
    "spec",
    [ll.VeRA(rank=4, targets=["q_proj", "v_proj"]), ll.LoRA(rank=2, targets=["q_proj"], rank_stabilized=True)],
    ids=["vera", "rslora"],
)
def test_low_rank_methods_are_served_by_their_pairs(model: PreTrainedModel, folder: Path, spec: object) -> None:
    write(model, folder / "other", spec)
    assert Registry(model, folder).version("other").pairs.keys() == ll.load(model, folder / "other").updates.keys()


def test_another_base_is_refused(folder: Path, model: PreTrainedModel) -> None:
    torch.manual_seed(9)
    other = LlamaForCausalLM(model.config).eval()
    with pytest.raises(LoralabError, match="base"):
        Registry(other, folder).version("one")


# -- reading from disk, while others ask ------------------------------------------------------------------------------


class Gate:
    """Holds the reading of one adapter up until it is opened, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._name, self._open, self.reached, self.readings = name, Event(), Event(), 0
        monkeypatch.setattr(registry_module, "read_pairs", self._read)

    def _read(self, path: Path, *args: Any) -> Pairs:
        if path.name == self._name:
            self.readings += 1
            self.reached.set()
            assert self._open.wait(60)
        return read_pairs(path, *args)

    def open(self) -> None:
        self._open.set()


def test_a_cold_adapter_delays_nobody_else(
    model: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, registry = Gate(monkeypatch, "one"), Registry(model, folder)
    waiting = registry.find("one")
    assert gate.reached.wait(60)
    assert registry.version("two").name == "two"
    registry.add("three", "two")
    registry.remove("two")
    assert registry.names() == ["one", "three"]
    assert not waiting.done()
    gate.open()
    assert waiting.result(60).name == "one"


def test_all_who_ask_for_one_content_wait_for_one_reading(
    model: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, registry = Gate(monkeypatch, "one"), Registry(model, folder)
    waiting = [registry.find("one") for _ in range(5)]
    gate.open()
    assert len({id(each.result(60)) for each in waiting}) == 1
    assert (gate.readings, registry.version("one") is waiting[0].result()) == (1, True)


def test_a_reading_that_fails_wakes_all(model: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, registry = Gate(monkeypatch, "one"), Registry(model, folder)
    (folder / "one" / "adapter_model.safetensors").write_bytes(b"12345678901234567890")
    waiting = [registry.find("one") for _ in range(3)]
    gate.open()
    for each in waiting:
        with pytest.raises(AdapterFileError, match="one"):
            each.result(60)
    write(model, folder / "one")
    assert registry.version("one").name == "one"


def test_what_is_unloaded_while_it_is_read_stays_unloaded(
    model: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, registry = Gate(monkeypatch, "one"), Registry(model, folder)
    waiting = registry.find("one")
    assert gate.reached.wait(60)
    registry.remove("one")
    gate.open()
    with pytest.raises(UnknownAdapterError, match="unloaded while"):
        waiting.result(60)
    assert (registry.names(), registry.memory_bytes) == (["two"], 0)
    with pytest.raises(UnknownAdapterError, match="no adapter"):
        registry.version("one")


def test_a_folder_that_changes_while_it_is_read_is_read_again(
    model: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, registry = Gate(monkeypatch, "one"), Registry(model, folder)
    waiting = registry.find("one")
    assert gate.reached.wait(60)
    shutil.rmtree(folder / "one")
    shutil.copytree(folder / "two", folder / "one")
    gate.open()
    found, wanted = waiting.result(60), Registry(model, folder).version("two")
    assert all(torch.equal(found.pairs[path][1], B) for path, (_, B) in wanted.pairs.items())
    assert registry.version("one") is found


def test_a_folder_that_never_rests_is_an_error(
    model: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_touch(path: Path, *args: Any) -> Pairs:
        os.utime(path / "adapter_config.json")
        return read_pairs(path, *args)

    monkeypatch.setattr(registry_module, "read_pairs", read_and_touch)
    with pytest.raises(AdapterFileError, match="changes while it is read"):
        Registry(model, folder).version("one")


def test_unload_frees_memory_and_needs_no_folder(model: PreTrainedModel, folder: Path) -> None:
    registry = Registry(model, folder)
    one, two = registry.version("one"), registry.version("two")
    assert registry.memory_bytes == one.memory_bytes + two.memory_bytes > 0
    shutil.rmtree(folder / "one")
    registry.remove("one")
    assert (registry.memory_bytes, one.retired, two.retired) == (two.memory_bytes, True, False)
    with pytest.raises(UnknownAdapterError):
        registry.remove("one")


def test_old_versions_do_not_pile_up(model: PreTrainedModel, folder: Path) -> None:
    registry = Registry(model, folder)
    for seed in range(5):
        write(model, folder / "one", seed=seed)
        newest = registry.add("again", "one")
    assert registry.memory_bytes == newest.memory_bytes


def test_a_thousand_folders_are_not_listed_for_each_request(
    model: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000):
        (folder / f"n{number}").symlink_to(folder / "one", target_is_directory=True)
    registry, listings, listdir = Registry(model, folder), [], os.listdir

    def counted(path: Any) -> list[str]:
        listings.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", counted)
    os.utime(folder, (0, 0))
    assert len(registry.names()) == 1002
    assert registry.version("n7").name == registry.version("n7").name
    assert len(registry.names()) == 1002
    assert len(listings) == 1
    shutil.copytree(folder / "two", folder / "new")
    (folder / "no adapter").rename(folder / "late")
    assert "new" in registry.names()
    os.utime(folder, (0, 0))
    assert "late" not in registry.names()
    shutil.copytree(folder / "two", folder / "late", dirs_exist_ok=True)  # the folder itself is as it was
    os.utime(folder, (0, 0))
    assert "late" in registry.names()
