"""An adapter that is saved and loaded is the same adapter, for every kind of layer; and what is refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import loralab as ll
from loralab.formats.stored import name_for
from toys import TOYS, Sandwich, give_effect, quiet

CONFIG, TENSORS, SIDECAR = "adapter_config.json", "adapter_model.safetensors", "loralab.json"
VARIANTS = {
    "plain": {},
    "rank-stabilised": {"rank_stabilized": True},
    "biases": {"bias": "lora_only"},
    "a head": {"modules_to_save": ["first"]},
}


def saved(tmp_path: Path, kind: str = "linear", **fields: object) -> tuple[nn.Module, torch.Tensor, ll.Adapter]:
    """(the base, an input, an adapter with an effect that was saved to tmp_path / "sql")."""
    toy = TOYS[kind]
    model = toy.build().eval()
    base = copy.deepcopy(model)
    adapter = ll.attach(model, ll.LoRA(**{"rank": 2, "alpha": 5, "targets": toy.targets, **fields}))
    give_effect(adapter)
    ll.save(adapter, tmp_path / "sql", model=model)
    return base, toy.inputs(torch.float32), adapter


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded_is_the_same_bit_for_bit(tmp_path: Path, kind: str, variant: str) -> None:
    toy, fields = TOYS[kind], VARIANTS[variant]
    model = toy.build().eval()
    if "modules_to_save" in fields and not isinstance(model, Sandwich):
        pytest.skip("this toy has no head")
    fresh, x = copy.deepcopy(model), toy.inputs(torch.float32)
    adapter = ll.attach(model, ll.LoRA(rank=3, alpha=7, targets=toy.targets, **fields))
    give_effect(adapter)
    loaded = ll.load(fresh, ll.save(adapter, tmp_path / "sql"))
    assert loaded.name == "sql"
    assert list(loaded.state_dict()) == list(adapter.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), loaded.parameters(), strict=True))
    assert torch.equal(quiet(fresh, x), quiet(model, x))
    assert loaded.spec == ll.LoRA(**{**vars(adapter.spec), "targets": list(toy.targets), "exclude": []})


def test_float64_factors_stay_exact(tmp_path: Path) -> None:
    model = TOYS["fused thirds"].build().eval()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["inner[q,v]"]))
    fresh = TOYS["fused thirds"].build().double()
    fresh.load_state_dict(base_of(model))
    model.double()
    give_effect(adapter)
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    ll.load(fresh.eval(), ll.save(adapter, tmp_path / "a"))
    torch.testing.assert_close(quiet(fresh, x), quiet(model, x), atol=0, rtol=0)


def base_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of the base under an adapter."""
    copied = copy.deepcopy(model)
    ll.detach(copied)
    return copied.state_dict()


def test_the_files_are_pefts_with_ours_beside(tmp_path: Path) -> None:
    saved(tmp_path)
    assert sorted(path.name for path in (tmp_path / "sql").iterdir()) == [CONFIG, TENSORS, SIDECAR]
    text = (tmp_path / "sql" / CONFIG).read_text()
    config = json.loads(text)
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
    expected = {"peft_type": "LORA", "r": 2, "lora_alpha": 5, "target_modules": ["inner"], "inference_mode": True}
    assert expected.items() <= config.items()
    with safe_open(tmp_path / "sql" / TENSORS, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == {f"base_model.model.inner.lora_{factor}.weight" for factor in "AB"}


def test_a_fused_slice_is_plain_lora_of_the_sum_of_ranks(tmp_path: Path) -> None:
    saved(tmp_path, "fused thirds")
    config = json.loads((tmp_path / "sql" / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 10)
    with safe_open(tmp_path / "sql" / TENSORS, framework="pt") as file:
        B = file.get_tensor("base_model.model.inner.lora_B.weight")
    assert B.shape == (48, 4)
    assert not B[:16, 2:].any()
    assert not B[16:32].any()
    assert not B[32:, :2].any()


def test_parts_of_other_ranks_and_scales_share_one_alpha(tmp_path: Path) -> None:
    fields = {"rank_pattern": {r"inner\[v\]": 3}, "alpha_pattern": {r"inner\[q\]": 4.5}}
    base, x, adapter = saved(tmp_path, "fused thirds", **fields)
    model = adapter.layers["inner"]
    ranks = [factors.recipe.rank for factors in adapter.updates["inner"].parts.values()]
    assert ranks == [2, 3]
    loaded = ll.load(base, tmp_path / "sql")
    for ours, theirs in zip(adapter.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(quiet(base.inner, x), quiet(model, x), atol=1e-6, rtol=1e-6)
    (tmp_path / "sql" / SIDECAR).unlink()
    ll.load(base, tmp_path / "sql", "plain")
    torch.testing.assert_close(quiet(base.inner, x), quiet(model, x), atol=1e-6, rtol=1e-6)


def test_the_order_of_parts_is_kept(tmp_path: Path) -> None:
    base, _, adapter = saved(tmp_path, "fused thirds", targets=["inner[v,q]"])
    loaded = ll.load(base, tmp_path / "sql")
    assert list(loaded.state_dict()) == list(adapter.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["conv1d", "conv2d, same, reflected", "conv3d, groups, circular"])
def test_what_peft_would_compute_otherwise_is_not_called_peft(tmp_path: Path, kind: str) -> None:
    saved(tmp_path, kind)
    config = json.loads((tmp_path / "sql" / CONFIG).read_text())
    assert config["peft_type"] == "LORALAB"
    assert "inner: PEFT's convolutions" in config["why_not_peft"][0]


def test_attention_of_other_widths_has_its_own_layout(tmp_path: Path) -> None:
    attention = nn.MultiheadAttention(16, 2, kdim=8, vdim=4, batch_first=True)
    model = nn.ModuleDict({"attend": attention}).eval()
    fresh = copy.deepcopy(model)
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["attend[q,k,v,out]"]))
    give_effect(adapter)
    ll.load(fresh, ll.save(adapter, tmp_path / "a"))
    x = torch.randn(2, 5, 16), torch.randn(2, 6, 8), torch.randn(2, 6, 4)
    assert torch.equal(fresh["attend"](*x)[0], model["attend"](*x)[0])


# -- the base ---------------------------------------------------------------------------------------------------


def test_another_base_is_refused_and_named(tmp_path: Path) -> None:
    base, x, _ = saved(tmp_path)
    before = quiet(base, x)
    with torch.no_grad():
        base.inner.weight[0, 0] += 0.5
    changed = quiet(base, x)
    with pytest.raises(ll.FingerprintError, match=r"inner\.weight holds other values.*allow_other_base"):
        ll.load(base, tmp_path / "sql")
    assert torch.equal(quiet(base, x), changed)
    assert not torch.equal(before, changed)
    assert ll.load(base, tmp_path / "sql", allow_other_base=True).matched == ["inner"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_base_in_another_dtype_is_the_same_base(tmp_path: Path, dtype: torch.dtype) -> None:
    base, _, _ = saved(tmp_path)
    assert ll.load(base.to(dtype), tmp_path / "sql").matched == ["inner"]


def test_without_a_fingerprint_the_notes_say_so(tmp_path: Path) -> None:
    base, _, _ = saved(tmp_path)
    (tmp_path / "sql" / SIDECAR).unlink()
    assert any("could not be checked" in note for note in ll.load(base, tmp_path / "sql").notes)


# -- folders and names ------------------------------------------------------------------------------------------


def test_a_run_folder_keeps_its_other_files(tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "run.json").write_text("{}")
    _, _, adapter = saved(tmp_path)
    ll.save(adapter, tmp_path / "sql")
    assert (tmp_path / "sql" / "run.json").read_text() == "{}"


@pytest.mark.parametrize("theirs", ["config.json", CONFIG, "adapter_model.bin"])
def test_a_folder_with_a_model_or_another_adapter_is_refused(tmp_path: Path, theirs: str) -> None:
    _, _, adapter = saved(tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / theirs).write_text("{}")
    with pytest.raises(ll.OutputError, match="overwrite=True"):
        ll.save(adapter, tmp_path / "theirs")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == [theirs]
    ll.save(adapter, tmp_path / "theirs", overwrite=True)
    assert not (tmp_path / "theirs" / "adapter_model.bin").exists()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    _, _, adapter = saved(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ll.OutputError, match="is a file"):
        ll.save(adapter, tmp_path / "file")


def test_no_adapter_at_all(tmp_path: Path) -> None:
    base, _, _ = saved(tmp_path)
    with pytest.raises(ll.NotFoundError, match="nowhere"):
        ll.load(base, tmp_path / "nowhere")
    with pytest.raises(ll.NotFoundError, match="there are adapters in its folders sql"):
        ll.load(base, tmp_path)
    (tmp_path / "sql" / TENSORS).unlink()
    with pytest.raises(ll.NotFoundError, match="no adapter_model"):
        ll.load(base, tmp_path / "sql")


def test_names_come_from_folders(tmp_path: Path) -> None:
    assert name_for(tmp_path / "my adapter (3).bin") == "my-adapter-3-"
    assert name_for(tmp_path / "__.bin") == "default"
    base, _, _ = saved(tmp_path)
    assert ll.load(base, tmp_path / "sql", "chat").name == "chat"
    with pytest.raises(ll.AdapterStateError, match="on this model already"):
        ll.load(base, tmp_path / "sql", "chat")


def test_alpha_is_for_checkpoints_without_one(tmp_path: Path) -> None:
    base, _, _ = saved(tmp_path)
    with pytest.raises(ll.SpecError, match="says its own"):
        ll.load(base, tmp_path / "sql", alpha=16)


# -- what is not saved ------------------------------------------------------------------------------------------


def test_nan_is_not_saved(tmp_path: Path) -> None:
    _, _, adapter = saved(tmp_path)
    before = (tmp_path / "sql" / TENSORS).read_bytes()
    with torch.no_grad():
        next(adapter.parameters())[0, 0] = float("nan")
    with pytest.raises(ll.NumericsError, match=r"inner\.lora_A"):
        ll.save(adapter, tmp_path / "sql")
    assert (tmp_path / "sql" / TENSORS).read_bytes() == before


def test_empty_tensors_are_not_saved(tmp_path: Path) -> None:
    _, _, adapter = saved(tmp_path)
    next(adapter.parameters()).data = torch.empty(0)
    with pytest.raises(ll.AdapterStateError, match="gathered before saving"):
        ll.save(adapter, tmp_path / "sql")


def test_a_merged_model_neither_saves_nor_loads(tmp_path: Path) -> None:
    saved(tmp_path)
    model = TOYS["linear"].build()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["inner"]))
    ll.merge(model)
    with pytest.raises(ll.AdapterStateError, match="unmerge"):
        ll.save(adapter, tmp_path / "b")
    with pytest.raises(ll.AdapterStateError, match="unmerge"):
        ll.load(model, tmp_path / "sql")


def test_random_numbers_are_left_alone_by_loading(tmp_path: Path) -> None:
    base, _, _ = saved(tmp_path)
    before = torch.get_rng_state()
    ll.load(base, tmp_path / "sql")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_combination_can_be_saved_and_loaded(tmp_path: Path) -> None:
    base, x, _ = saved(tmp_path)
    ll.load(base, tmp_path / "sql", "a")
    ll.load(base, tmp_path / "sql", "b")
    mixed = ll.combine(base, {"a": 0.25, "b": 0.5}, name="mix")
    y = quiet(base, x)
    ll.detach(base, "mix")
    ll.load(base, ll.save(mixed, tmp_path / "mix"))
    torch.testing.assert_close(quiet(base, x), y, atol=0, rtol=0)


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    model = TOYS["linear"].build()
    ll.attach(model, ll.LoRA(rank=2, targets=TOYS["linear"].targets))
    with pytest.raises(ll.SpecError, match="not an adapter; give it what attach or load returned"):
        ll.save(model, tmp_path / "saved")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
