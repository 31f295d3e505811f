"""Where PEFT computes something else than a low-rank update of the layer, neither side takes it for one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers.models.bit.modeling_bit import WeightStandardizedConv2d

import loralab as ll
from oracle.case import Case, assert_same, ours_saved, output, peft_loads, theirs_saved
from oracle.module_cases import IN_BOTH, INNER, MLP, MODULES, Everything, indices, rows, sandwich
from oracle.peft_warnings import silenced

pytestmark = silenced
FUSED_BESIDE_ATTENTION = ["fused", "attend"]


class Twice(nn.Module):
    """A module that hangs in two places, and one whose parent has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 16))
        self.second, self.again = self.first, self.block

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.second(torch.tanh(self.block(torch.tanh(self.first(x))))))


def conv(**fields: Any) -> Case:
    return Case(sandwich(lambda: nn.Conv1d(16, 8, 3, **fields), 1), rows, **IN_BOTH)


BEYOND_PEFT: dict[str, Case] = {
    "dilated": conv(padding=2, dilation=2),
    "reflected": conv(padding=1, padding_mode="reflect"),
    "circular": conv(padding=1, padding_mode="circular"),
    "a module in two places": Case(Twice, rows, {"targets": ["first"]}, {"target_modules": ["first"]}),
    "a head in two places": Case(
        Twice, rows, {"targets": ["0"]}, {"target_modules": ["0"]}, {"modules_to_save": ["first"]}
    ),
    "attention after a Conv1D": Case(
        Everything, indices, {"targets": FUSED_BESIDE_ATTENTION}, {"target_modules": FUSED_BESIDE_ATTENTION}
    ),
}
beyond_peft = pytest.mark.parametrize("case", BEYOND_PEFT.values(), ids=BEYOND_PEFT.keys())


@beyond_peft
def test_what_peft_cannot_compute_it_refuses_to_load(tmp_path: Path, case: Case) -> None:
    base, ours = ours_saved(case, tmp_path / "ours")
    with pytest.raises((KeyError, ValueError), match="LORALAB"):
        peft_loads(base, tmp_path / "ours")
    x, again = case.inputs(), copy.deepcopy(base)
    ll.load(again, tmp_path / "ours")
    assert torch.equal(output(again, x), output(ours, x))


@beyond_peft
def test_what_peft_computed_otherwise_we_refuse_to_load(tmp_path: Path, case: Case) -> None:
    base, _ = theirs_saved(case, tmp_path / "theirs")
    with pytest.raises(ll.AdapterFileError, match=r"what it computes there has no equal here.*PEFT"):
        ll.load(base, tmp_path / "theirs")
    assert not any("lora" in name for name, _ in base.named_parameters())


def test_one_parent_under_two_names_is_one_place(tmp_path: Path) -> None:
    case = Case(Twice, rows, {"targets": ["0"]}, {"target_modules": ["0"]})
    base, theirs = theirs_saved(case, tmp_path / "theirs")
    ours, x = copy.deepcopy(base), rows()
    ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))


class Standardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(input, centred / centred.std(dim=(1, 2, 3), keepdim=True), self.bias)


class SamePadding(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(input, (1, 1)))


OF_THEIR_OWN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "BiT's standardised weights": (lambda: WeightStandardizedConv2d(16, 8, 3, padding=1), 2),
    "standardised weights": (lambda: Standardised(16, 8, 3, padding=1), 2),
    "padding of its own": (lambda: SamePadding(16, 8, 3), 1),
}


@pytest.mark.parametrize("kind", OF_THEIR_OWN)
def test_a_convolution_of_its_own_kind_that_peft_adapted_is_refused(tmp_path: Path, kind: str) -> None:
    """PEFT makes its A a layer of the same class, which does to A what it does to the weight."""
    make, dimensions = OF_THEIR_OWN[kind]
    base, _ = theirs_saved(Case(sandwich(make, dimensions), rows, **IN_BOTH), tmp_path)
    with pytest.raises(ll.AdapterFileError, match=r"cannot be adapted: its forward is not.*merge_and_unload"):
        ll.load(base, tmp_path)


def test_a_convolution_whose_class_takes_other_arguments_is_not_called_pefts(tmp_path: Path) -> None:
    class Depthwise(nn.Conv1d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels, channels, 3, padding=1, groups=channels)

    case = Case(sandwich(lambda: Depthwise(16), 1), rows, **IN_BOTH)
    base, ours = ours_saved(case, tmp_path, rank=1)
    with pytest.raises((KeyError, ValueError), match="LORALAB"):
        peft_loads(base, tmp_path)
    x = case.inputs()
    ll.load(base, tmp_path)
    assert torch.equal(output(base, x), output(ours, x))


@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_convolution_of_pefts_runs_and_is_not_merged(tmp_path: Path, groups: int) -> None:
    build = sandwich(lambda: nn.Conv2d(16, 8, 2, groups=groups, padding=1), 2)
    case = Case(build, rows, {}, INNER | {"r": 4})
    base, theirs = theirs_saved(case, tmp_path / "theirs")
    ours, x = copy.deepcopy(base), rows()
    ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))
    with pytest.raises(ll.AdapterStateError, match="keep the adapter live"):
        ll.merge(ours)


def test_a_grouped_convolution_of_ours_survives_peft_and_still_merges(tmp_path: Path) -> None:
    case = MODULES["conv2d, groups"]
    base, ours = ours_saved(case, tmp_path / "ours")
    peft_loads(base, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again, x = copy.deepcopy(base), case.inputs()
    ll.load(again, tmp_path / "theirs")
    ll.merge(again)
    assert_same(output(again, x), output(ours, x), unlike=output(base, x))


BOTH = {"target_modules": ["lin0", "lin1"]}
OTHER_FUNCTIONS: dict[str, tuple[Callable[[], PeftConfig], str]] = {
    "PiSSA, not converted": (lambda: LoraConfig(**BOTH, init_lora_weights="pissa"), "init_lora_weights"),
    "OLoRA, not converted": (lambda: LoraConfig(**BOTH, init_lora_weights="olora"), "init_lora_weights"),
    "IA3": (lambda: IA3Config(**BOTH, feedforward_modules=[]), "peft_type"),
}


@pytest.mark.parametrize("kind", OTHER_FUNCTIONS)
def test_other_methods_of_pefts_are_named_and_refused(tmp_path: Path, kind: str) -> None:
    config, named = OTHER_FUNCTIONS[kind]
    model = MLP()
    get_peft_model(copy.deepcopy(model), config()).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ll.AdapterFileError, match=named):
        ll.load(model, tmp_path / "theirs")


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights of the model:UserWarning")
def test_pissa_that_peft_converted_to_plain_lora_is_loaded(tmp_path: Path) -> None:
    base, x = MLP().eval(), rows()
    config = LoraConfig(r=2, lora_alpha=2, init_lora_weights="pissa", **BOTH)
    theirs = get_peft_model(copy.deepcopy(base), config).eval()
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "initial")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.requires_grad, alpha=0.1)
    theirs.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    ours = copy.deepcopy(base)
    adapter = ll.load(ours, tmp_path / "theirs")
    assert {factors.recipe.rank for update in adapter.updates.values() for factors in update.parts.values()} == {4}
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))
