"""Folders of LoRA's neighbours: PEFT opens ours and we open PEFT's; what PEFT lacks has a plain LoRA that it opens."""

import copy
import resource
import sys
from pathlib import Path

import pytest

import loralab as ll
from loralab.core.attach import Method
from loralab.files.names import PLAIN_NAME
from oracle.case import Case, assert_same, keys, ours_saved, output, peft_loads, theirs_saved
from oracle.model_cases import MODELS
from oracle.peft_warnings import silenced
from oracle.test_dora import CASES
from toys import give_effect

pytestmark = silenced
every_dora = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
LLAMA = MODELS["llama"]
FAMILIES = {name: MODELS[name] for name in ("llama", "gpt2, c_attn", "bert, with its head")}
every_family = pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES.keys())
EXPORTED = {
    "tied": ll.TiedLoRA(rank=2),
    "multilora": ll.MultiLoRA(rank=2),
    "adamix": ll.AdaMix(rank=2, experts=3),
    "lora-xs": ll.LoRAXS(rank=3),
}


@every_dora
def test_peft_computes_our_dora_and_we_merge_it(tmp_path: Path, case: Case) -> None:
    base, ours = ours_saved(case, tmp_path / "ours", magnitude=True)
    x = case.inputs()
    live, plain = output(ours, x), output(base, x)
    assert_same(output(peft_loads(base, tmp_path / "ours"), x), live, unlike=plain)
    ll.merge(ours)
    assert_same(output(ours, x), live, unlike=plain)
    again = copy.deepcopy(base)
    ll.load(again, tmp_path / "ours")
    assert_same(output(again, x), live, unlike=plain)


@every_dora
def test_we_compute_pefts_dora(tmp_path: Path, case: Case) -> None:
    base, theirs = theirs_saved(case, tmp_path / "theirs", use_dora=True)
    x, ours = case.inputs(), copy.deepcopy(base)
    live, plain = output(theirs, x), output(base, x)
    adapter = ll.load(ours, tmp_path / "theirs")
    assert isinstance(adapter.spec, ll.LoRA)
    assert adapter.spec.magnitude
    assert_same(output(ours, x), live, unlike=plain)
    ll.save(adapter, tmp_path / "ours", model=ours)
    assert set(keys(tmp_path / "ours")) == set(keys(tmp_path / "theirs"))


def test_our_dora_of_parts_is_one_that_peft_opens(tmp_path: Path) -> None:
    case = MODELS["gpt2, c_attn"]
    base, ours = ours_saved(case, tmp_path / "ours", magnitude=True, targets=["c_attn[q,v]"])
    x = case.inputs()
    assert_same(output(peft_loads(base, tmp_path / "ours"), x), output(ours, x), unlike=output(base, x))
    again = copy.deepcopy(base)
    loaded = ll.load(again, tmp_path / "ours")
    assert_same(output(again, x), output(ours, x), unlike=output(base, x))
    lengths = [each for name, each in loaded.named_parameters() if name.endswith("lora_magnitude_vector")]
    rows = next(iter(loaded.layers.values())).base.weight.shape[1]
    assert {len(each) for each in lengths} == {2 * rows // 3}


@every_family
def test_pissa_is_a_plain_lora_of_twice_the_rank_on_the_original_base(tmp_path: Path, case: Case) -> None:
    base, ours = ours_saved(case, tmp_path / "ours", init="pissa")
    x = case.inputs()
    theirs = peft_loads(base, tmp_path / "ours")
    assert_same(output(theirs, x), output(ours, x), unlike=output(base, x))
    assert theirs.peft_config["default"].r == 4
    assert theirs.peft_config["default"].init_lora_weights is True


@every_family
@pytest.mark.parametrize("method", EXPORTED)
def test_peft_opens_the_plain_lora_beside_what_it_lacks(tmp_path: Path, case: Case, method: str) -> None:
    base = case.build().eval()
    ours, x = copy.deepcopy(base), case.inputs()
    spec: Method = EXPORTED[method]
    adapter = ll.attach(ours, spec)
    give_effect(adapter)
    ll.save(adapter, tmp_path / "ours", model=ours)
    theirs = peft_loads(base, tmp_path / "ours" / PLAIN_NAME)
    assert_same(output(theirs, x), output(ours, x), unlike=output(base, x))


def test_an_export_goes_with_the_adapter_that_it_was_of(tmp_path: Path) -> None:
    model = LLAMA.build().eval()
    adapter = ll.attach(model, EXPORTED["multilora"])
    ll.save(adapter, tmp_path, model=model)
    assert (tmp_path / PLAIN_NAME / "loralab.json").exists()
    ll.detach(model)
    ll.save(ll.attach(model, ll.LoRA(rank=2)), tmp_path, model=model)
    assert not (tmp_path / PLAIN_NAME).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the fault is Linux's limit of a file's size")
def test_an_export_never_stands_beside_another_adapter(tmp_path: Path) -> None:
    """A save that fails at the plain LoRA leaves all of the adapter before, with the plain LoRA that is its own."""
    model = MODELS["gpt2, c_attn"].build().eval()
    ll.save(ll.attach(model, ll.MultiLoRA(rank=2)), tmp_path / "adapter", model=model)
    ll.detach(model)
    held = _files(tmp_path / "adapter")
    adapter = ll.attach(model, ll.TiedLoRA(rank=16))
    ll.save(adapter, tmp_path / "whole", model=model)
    own = max(file.stat().st_size for file in (tmp_path / "whole").iterdir() if file.is_file())
    export = (tmp_path / "whole" / PLAIN_NAME / "adapter_model.safetensors").stat().st_size
    assert own < export
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((own + export) // 2, before[1]))
        with pytest.raises(ll.OutputError):
            ll.save(adapter, tmp_path / "adapter", model=model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert _files(tmp_path / "adapter") == held


def _files(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
