"""Folders whose files contradict each other are refused by whoever reads them, with a model or without."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import loralab as ll
from loralab.formats.convert import convert
from loralab.formats.doctor.examine import examine
from loralab.formats.inspect import inspect
from loralab.formats.peft.agreement import packed_recipe
from loralab.formats.peft.layout import pack
from loralab.formats.record import describe
from toys import TOYS, give_effect, quiet

Config = dict[str, Any]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A sound adapter of two layers, and its base."""
    torch.manual_seed(0)
    model = TOYS["linear"].build()
    base = copy.deepcopy(model)
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=4, targets=["first", "inner"]))
    give_effect(adapter)
    return ll.save(adapter, tmp_path_factory.mktemp("ours") / "adapter", model=model), base


def edited(source: Path, target: Path, edit: Callable[[Config], object], with_sidecar: bool) -> Path:
    folder = Path(shutil.copytree(source, target))
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    if not with_sidecar:
        (folder / "loralab.json").unlink()
    return folder


ANYHOW: dict[str, Config] = {
    "a rank that the tensors have not": {"r": 3},
    "a rank_pattern that they have not": {"rank_pattern": {"inner": 4}},
    "targets that match nothing": {"target_modules": ["elsewhere"]},
    "targets that leave one out": {"target_modules": ["inner"]},
    "an expression that leaves one out": {"target_modules": "inn.*"},
    "an exclusion of one": {"exclude_modules": ["inner"]},
}
BESIDE_OURS: dict[str, Config] = {
    "another alpha": {"lora_alpha": 8},
    "an alpha_pattern": {"alpha_pattern": {"inner": 1}},
    "a scale by the root of the rank": {"use_rslora": True},
    "one more target": {"target_modules": ["first", "inner", "wte"]},
    "one more parameter": {"target_parameters": ["experts.down_proj"]},
}


@pytest.mark.parametrize("with_sidecar", [True, False], ids=["ours", "PEFT's"])
@pytest.mark.parametrize("what", ANYHOW)
def test_a_configuration_that_contradicts_the_tensors(
    ours: tuple[Path, nn.Module], tmp_path: Path, what: str, with_sidecar: bool
) -> None:
    refused_by_all(ours, edited(ours[0], tmp_path / "a", lambda each: each.update(ANYHOW[what]), with_sidecar))


@pytest.mark.parametrize("what", BESIDE_OURS)
def test_a_configuration_that_contradicts_ours(ours: tuple[Path, nn.Module], tmp_path: Path, what: str) -> None:
    refused_by_all(ours, edited(ours[0], tmp_path / "a", lambda each: each.update(BESIDE_OURS[what]), True))


def refused_by_all(ours: tuple[Path, nn.Module], folder: Path) -> None:
    out = folder.parent / "out"
    uses: list[Callable[[], object]] = [lambda: ll.load(ours[1], folder), lambda: inspect(folder)]
    uses += [lambda: convert(folder, out, "peft"), lambda: convert(folder, out / "a.safetensors", "loralib")]
    for use in uses:
        with pytest.raises(ll.AdapterFileError):
            use()
    assert not out.exists()
    assert not examine(folder).healthy


def test_without_ours_another_name_is_taken_as_peft_takes_it_and_said(
    ours: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    """PEFT writes what it was asked for, also what the model does not have; what it computes is what the file holds."""
    names = ["first", "inner", "wte"]
    folder = edited(ours[0], tmp_path / "a", lambda each: each.update(target_modules=names), False)
    model, sound = copy.deepcopy(ours[1]), copy.deepcopy(ours[1])
    adapter = ll.load(model, folder)
    ll.load(sound, ours[0])
    assert "target_modules names 'wte', which this model does not have" in adapter.notes
    written = convert(folder, tmp_path / "out", "peft")
    assert written.notes == ("target_modules names wte, of which the file has nothing: of the base they should not be",)
    x = TOYS["linear"].inputs(torch.float32)
    assert torch.equal(quiet(model, x), quiet(sound, x))


def test_the_names_of_heads_that_peft_writes_are_no_error(ours: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """For SEQ_CLS it writes classifier and score, and a model has one of them."""
    heads = {"modules_to_save": ["classifier", "score"], "task_type": "SEQ_CLS"}
    folder = edited(ours[0], tmp_path / "a", lambda each: each.update(heads), False)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.score.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    assert examine(folder).healthy
    save_file(tensors, folder / "adapter_model.safetensors")
    assert not examine(folder).healthy


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_rank_and_scale_of_an_entry_by_its_record_alone(toy: str, rank_stabilized: bool) -> None:
    """As packing the update itself gives them."""
    model = TOYS[toy].build()
    spec = ll.LoRA(rank=4, alpha=3, rank_stabilized=rank_stabilized, targets=list(TOYS[toy].targets))
    adapter = ll.attach(model, spec)
    for path, update in adapter.updates.items():
        base = adapter.layers[path].base
        record, groups = describe(update, base), getattr(base, "groups", 1)
        for entry in pack(update, base, rank_stabilized):
            said = packed_recipe(record, entry.parameter, groups)
            assert said is not None
            assert (said.rank, said.scale) == (entry.recipe.rank, pytest.approx(entry.recipe.scale))


FINER = {
    "fused thirds": "inner.lora_B.weight",
    "fused thirds, stored transposed": "inner.lora_B.weight",
    "attention": "inner.lora_B.weight",
    "attention, q and v": "inner.lora_B.weight",
    "attention, output": "inner.base_layer.out_proj.lora_B.weight",
    "conv2d, groups": "inner.lora_A.weight",
}
"""Toy → a tensor of PEFT's that holds zeros where the update has nothing."""


@pytest.mark.parametrize("toy", FINER)
def test_what_stands_where_nothing_is_adapted_is_not_left_out_in_silence(toy: str, tmp_path: Path) -> None:
    """PEFT computes with it, as when the folder was trained on there; loralab.json says that it is the file's."""
    base = saved(toy, ll.LoRA(rank=2, targets=list(TOYS[toy].targets)), tmp_path)
    if toy == "attention, output":
        rewritten(tmp_path, lambda tensors: tensors["base_model.model.inner.lora_B.weight"].fill_(1))
    else:
        rewritten(tmp_path, lambda tensors: fill_zeros(tensors[f"base_model.model.{FINER[toy]}"]))
    before = dict(base.named_modules())
    with pytest.raises(ll.AdapterFileError, match=r"hold values where .* says that nothing is adapted"):
        ll.load(base, tmp_path)
    assert dict(base.named_modules()) == before
    (tmp_path / "loralab.json").unlink()
    assert ll.load(base, tmp_path).matched


def test_nor_are_lengths_of_rows_that_are_not_adapted(tmp_path: Path) -> None:
    base = saved("fused thirds", ll.LoRA(rank=2, targets=["inner[q,v]"], magnitude=True), tmp_path)
    rewritten(tmp_path, lambda tensors: tensors["base_model.model.inner.lora_magnitude_vector"][20:24].mul_(2))
    with pytest.raises(ll.AdapterFileError, match="lora_magnitude_vector hold values"):
        ll.load(base, tmp_path)


def saved(toy: str, spec: ll.LoRA, folder: Path) -> nn.Module:
    """The base of an adapter that is in the folder, onto which it loads."""
    model = TOYS[toy].build()
    base = copy.deepcopy(model)
    adapter = ll.attach(model, spec)
    give_effect(adapter)
    ll.save(adapter, folder, model=model)
    loaded = ll.load(base, folder)
    x = TOYS[toy].inputs(torch.float32)
    assert torch.equal(quiet(base, x), quiet(model, x))
    ll.detach(base, loaded.name)
    return base


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """With other tensors, of which loralab.json has the hash."""
    path, sidecar = folder / "adapter_model.safetensors", folder / "loralab.json"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    content = json.loads(sidecar.read_text()) | {"tensors_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    sidecar.write_text(json.dumps(content))


def fill_zeros(tensor: torch.Tensor) -> None:
    assert (tensor == 0).any()
    tensor[tensor == 0] = 1


def test_an_embedding_is_saved_as_its_factors_alone(tmp_path: Path) -> None:
    """The base's own is not copied into the adapter's file."""
    toy = TOYS["embedding"]
    model = toy.build()
    ll.save(ll.attach(model, ll.LoRA(rank=2, targets=list(toy.targets))), tmp_path, model=model)
    names = {key.rpartition("inner.")[2] for key in load_file(tmp_path / "adapter_model.safetensors")}
    assert names == {"lora_embedding_A", "lora_embedding_B"}
