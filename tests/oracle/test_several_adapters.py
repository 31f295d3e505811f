"""Named adapters, mixed batches and weighted sums, as PEFT computes them."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

import loralab as ll
from oracle.case import Case, assert_same, output, peft_model
from oracle.model_cases import MODELS
from oracle.module_cases import MODULES
from oracle.peft_warnings import silenced

pytestmark = silenced
NAMES = ("sql", "chat")
CASES: dict[str, Case] = {name: (MODELS | MODULES)[name] for name in ("llama", "bloom, whole", "embedding", "conv2d")}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def two(case: Case, folder: Path) -> tuple[nn.Module, PeftModel, nn.Module]:
    """(the base, PEFT's model with two adapters saved into the folder, ours with both loaded)."""
    base = case.build().eval()
    fields = dict(case.theirs or {})
    theirs = peft_model(base, **fields)
    for name, rank in zip(NAMES, (2, 3), strict=True):
        theirs.add_adapter(name, LoraConfig(r=rank, lora_alpha=5, **fields))
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if "lora_" in key:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs.eval().save_pretrained(folder)
    ours = copy.deepcopy(base)
    for name in NAMES:
        ll.load(ours, folder / name)
    return base, theirs, ours


@every_case
def test_each_of_pefts_named_adapters(tmp_path: Path, case: Case) -> None:
    base, theirs, ours = two(case, tmp_path)
    x = case.inputs()
    for name in NAMES:
        theirs.set_adapter(name)
        ll.activate(ours, name)
        assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))
    with theirs.disable_adapter(), ll.disabled(ours):
        torch.testing.assert_close(output(ours, x), output(theirs, x), atol=0, rtol=0)


@every_case
def test_a_mixed_batch(tmp_path: Path, case: Case) -> None:
    base, theirs, ours = two(case, tmp_path)
    x = {name: torch.cat([tensor, tensor.flip(1)])[:4] for name, tensor in case.inputs().items()}
    names: Sequence[str | None] = ["chat", None, "sql", "chat"]
    with torch.no_grad():
        mixed = _tensor(theirs(**x, adapter_names=[name or "__base__" for name in names]))
    with ll.rows(ours, names):
        assert_same(output(ours, x).flatten(), mixed.flatten(), unlike=output(base, x).flatten())


def _tensor(result: Tensor | dict[str, Tensor]) -> Tensor:
    return result if isinstance(result, Tensor) else result["logits"]


@every_case
def test_a_weighted_sum_by_concatenation(tmp_path: Path, case: Case) -> None:
    base, theirs, ours = two(case, tmp_path)
    theirs.add_weighted_adapter(list(NAMES), [0.7, 1.5], "mix", combination_type="cat")
    theirs.set_adapter("mix")
    ll.combine(ours, {"sql": 0.7, "chat": 1.5}, "mix")
    x = case.inputs()
    assert_same(output(ours, x), output(theirs.eval(), x), unlike=output(base, x))


def test_a_weighted_sum_in_a_lower_rank(tmp_path: Path) -> None:
    base, theirs, ours = two(CASES["llama"], tmp_path)
    theirs.add_weighted_adapter(list(NAMES), [0.7, 0.5], "mix", combination_type="svd", svd_rank=3)
    theirs.set_adapter("mix")
    ll.combine(ours, {"sql": 0.7, "chat": 0.5}, "mix", rank=3)
    x = CASES["llama"].inputs()
    assert_same(output(ours, x), output(theirs.eval(), x), unlike=output(base, x))


SUMMED = {
    name: case
    for name, case in (MODELS | MODULES).items()
    if case.theirs is not None and case.ours.keys() <= {"targets"} and not case.common and "head" not in name
}


@pytest.mark.filterwarnings("ignore:Already following adapters were merged")
@pytest.mark.parametrize("case", SUMMED.values(), ids=SUMMED.keys())
def test_several_active_at_once(tmp_path: Path, case: Case) -> None:
    base, theirs, ours = two(case, tmp_path)
    x = case.inputs()
    theirs.base_model.set_adapter(list(NAMES))
    ll.activate(ours, NAMES)
    expected = output(theirs, x)
    assert_same(output(ours, x), expected, unlike=output(base, x))
    ll.merge(ours)
    assert_same(output(ours, x), expected, unlike=output(base, x))


@pytest.mark.parametrize("name", ["lora", "lora_A", "base_layer", "weight", "base", "v1.0", "keys", "forward"])
def test_a_name_makes_no_difference(tmp_path: Path, name: str) -> None:
    case = MODULES["dense layers"]
    base, x, outputs = case.build().eval(), case.inputs(), []
    for chosen in ("default", name):
        torch.manual_seed(1)
        ours = copy.deepcopy(base)
        adapter = ll.attach(ours, ll.LoRA(rank=2, **case.ours, modules_to_save=["head"]), name=chosen)
        for parameter in adapter.parameters():
            nn.init.normal_(parameter)
        ll.save(adapter, tmp_path / chosen)
        theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / chosen).eval()
        assert_same(output(theirs, x), output(ours, x), unlike=output(base, x))
        outputs.append(output(ours, x))
    assert torch.equal(*outputs)
    assert (tmp_path / "default" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / name / "adapter_model.safetensors"
    ).read_bytes()
