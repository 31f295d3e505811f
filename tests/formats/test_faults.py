"""Damaged, foreign and half-written adapter folders: each is refused by name, and the model stays as it was."""

import copy
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loralab as ll
from loralab.core.adapter import adapters_on
from loralab.formats.inspect import inspect
from toys import TOYS, give_effect, quiet

STEM = "base_model.model.inner."
Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A PEFT folder as PEFT writes it: without loralab.json."""
    model = TOYS["linear"].build()
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=4, targets=["inner"], bias="lora_only", modules_to_save=["first"]))
    give_effect(adapter)
    ll.save(adapter, tmp_path / "sql")
    (tmp_path / "sql" / "loralab.json").unlink()
    return tmp_path / "sql"


def change(folder: Path, how: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    how(tensors)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(folder: Path, match: str, model: nn.Module | None = None) -> None:
    """Loading raises, and the model has the same modules and no adapter."""
    model = TOYS["linear"].build() if model is None else model
    before = dict(model.named_modules())
    with pytest.raises(ll.AdapterFileError, match=match):
        ll.load(model, folder)
    assert dict(model.named_modules()) == before
    assert not adapters_on(model).adapters


def test_the_fixture_loads(folder: Path) -> None:
    assert ll.load(TOYS["linear"].build(), folder).matched == ["inner"]


TENSOR_FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing factor": (lambda t: t.pop(STEM + "lora_B.weight"), r"inner\.lora_B\.weight is missing"),
    "missing bias": (lambda t: t.pop(STEM + "base_layer.bias"), r"inner\.base_layer\.bias is missing"),
    "missing head": (lambda t: t.pop("base_model.model.first.weight"), r"first\.weight is missing"),
    "extra": (lambda t: t.update({STEM + "lora_C.weight": torch.ones(1)}), r"inner\.lora_C\.weight belongs to nothing"),
    "of another module": (
        lambda t: t.update({"base_model.model.last.lora_A.weight": torch.ones(2, 16)}),
        r"last\.lora_A\.weight belongs to nothing",
    ),
    "misshapen": (
        lambda t: t.update({STEM + "lora_A.weight": torch.ones(2, 15)}),
        r"lora_A\.weight has shape \[2, 15\], not \[2, 16\]",
    ),
    "another rank": (
        lambda t: t.update({STEM + "lora_A.weight": torch.ones(3, 16), STEM + "lora_B.weight": torch.ones(12, 3)}),
        r"lora_A\.weight has shape \[3, 16\], not \[2, 16\]; inner\.lora_B\.weight has shape \[12, 3\], not \[12, 2\]",
    ),
    "empty": (lambda t: t.update({STEM + "lora_A.weight": torch.ones(0, 16)}), r"has shape \[0, 16\]"),
    "NaN": (lambda t: t[STEM + "lora_A.weight"].fill_(torch.nan), r"lora_A\.weight holds NaN"),
    "infinite head": (lambda t: t["base_model.model.first.weight"].fill_(torch.inf), r"first\.weight holds NaN or inf"),
    "head of other classes": (
        lambda t: t.update({"base_model.model.first.weight": torch.ones(7, 16)}),
        r"first\.weight has shape \[7, 16\], not \[16, 16\]",
    ),
    "an adapter's name in the keys": (
        lambda t: t.update({STEM + "lora_A.default.weight": t.pop(STEM + "lora_A.weight")}),
        r"lora_A\.default\.weight belongs to nothing.*lora_A\.weight is missing",
    ),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_tensors_that_do_not_fit(folder: Path, fault: str) -> None:
    how, match = TENSOR_FAULTS[fault]
    change(folder, how)
    refused(folder, match)


def test_all_faults_are_listed_at_once(folder: Path) -> None:
    change(folder, lambda t: (t.pop(STEM + "lora_B.weight"), t[STEM + "lora_A.weight"].fill_(torch.nan)))
    refused(folder, "holds NaN.*is missing")


SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "another method": ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
    "DoRA without its lengths": ({"use_dora": True}, "lora_magnitude_vector is missing"),
    "QA-LoRA": ({"use_qalora": True}, "use_qalora is True"),
    "a future variant": ({"use_anything": True}, "use_anything is True"),
    "a future pattern": ({"dropout_pattern": {"a": 0.1}}, "dropout_pattern"),
    "a future configuration": ({"x_config": {"a": 1}}, "x_config"),
    "bias of B": ({"lora_bias": True}, "lora_bias"),
    "aLoRA without tokens": ({"alora_invocation_tokens": []}, r"alora_invocation_tokens is \[\], not"),
    "aLoRA by text": ({"alora_invocation_tokens": "<call>"}, "alora_invocation_tokens is '<call>', not"),
    "aLoRA with a bias": ({"alora_invocation_tokens": [1], "bias": "lora_only"}, "bias"),
    "replicated layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "trained tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "changes the base weights"),
    "no rank": ({"r": 0}, "r is 0"),
    "a rank that is a truth": ({"r": True}, "r is True"),
    "a rank of text": ({"rank_pattern": {"inner": "8"}}, r"rank_pattern\['inner'\] is '8'"),
    "a pattern that is a number": ({"rank_pattern": 3, "alpha_pattern": 3.5}, "alpha_pattern is .3.5., not"),
    "no number": ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    "a bias of another kind": ({"bias": "some"}, "bias is 'some'"),
    "a broken expression": ({"target_modules": "inner("}, "not a valid regular expression"),
    "no targets": ({"target_modules": None}, "names neither"),
    "targets of another kind": ({"target_modules": [1]}, "not a name or a list of names"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_would_change_the_function(folder: Path, setting: str) -> None:
    fields, match = SETTINGS[setting]
    configure(folder, **fields)
    refused(folder, match)


def test_all_settings_are_listed_at_once(folder: Path) -> None:
    configure(folder, use_qalora=True, r=0)
    refused(folder, "r is 0.*use_qalora")


def test_harmless_settings_are_ignored(folder: Path) -> None:
    configure(folder, use_dora=False, x_config=None, runtime_config={"a": 1}, note="trained on Monday", revision="main")
    assert ll.load(TOYS["linear"].build(), folder).matched == ["inner"]


def test_a_bare_parameter_name_is_not_taken_for_one_of_a_target(folder: Path) -> None:
    configure(folder, target_parameters=["down_proj"])
    assert inspect(folder).targets == ["inner"]


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_configuration_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "adapter_config.json").write_text(text)
    refused(folder, r"adapter_config\.json")


def test_targets_without_tensors_are_an_error(folder: Path) -> None:
    configure(folder, target_modules=["inner", "first"], modules_to_save=None)
    refused(folder, r"first\.lora_A\.weight is missing")


def test_a_target_that_cannot_be_adapted(folder: Path) -> None:
    model = nn.Sequential()
    model.inner = nn.LayerNorm(16)
    refused(folder, "inner, a LayerNorm, which cannot be adapted", model)


def test_targets_that_the_model_lacks(folder: Path) -> None:
    model = nn.Sequential()
    model.other = nn.Linear(16, 12)
    refused(folder, "target_modules names 'inner', which this model does not have", model)


# -- a save that was cut off ------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path: Path) -> tuple[Path, nn.Module]:
    model = TOYS["linear"].build()
    base = copy.deepcopy(model)
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=4, targets=["inner"]))
    give_effect(adapter)
    return ll.save(adapter, tmp_path / "ours"), base


def test_files_of_two_saves_are_not_mixed(ours: tuple[Path, nn.Module]) -> None:
    folder, base = ours
    change(folder, lambda t: t[STEM + "lora_A.weight"].mul_(2))
    refused(folder, "is not the file that loralab.json was written with", base)


def test_an_edited_alpha_is_not_silently_ignored(ours: tuple[Path, nn.Module]) -> None:
    folder, base = ours
    configure(folder, lora_alpha=32)
    refused(folder, r"disagree about inner \(rank 2, scale 16; 2, 2\)", base)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 2},
        {"modules": [1]},
        {"fingerprint": {}},
        {"method": {"type": "LoRA", "rank": 0}},
        {"method": ["LoRA"]},
        {"notes": 3},
        {"heads": [1]},
    ],
)
def test_a_damaged_loralab_json(ours: tuple[Path, nn.Module], damage: dict[str, object]) -> None:
    folder, base = ours
    path = folder / "loralab.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    refused(folder, r"loralab\.json", base)


SAVING = """
import resource, signal, sys, os
import torch
from torch import nn
import loralab as ll
from loralab.formats import save
torch.manual_seed(1)
model = nn.Sequential(nn.Linear(64, 64))
adapter = ll.attach(model, ll.LoRA(rank=8, targets=["0"]))
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
elif sys.argv[2] == "kill":
    write = save.write_tensors
    def half(path, tensors):
        write(path, tensors)
        os.truncate(path, 1000)
        os.kill(os.getpid(), signal.SIGKILL)
    save.write_tensors = half
try:
    ll.save(adapter, sys.argv[1])
except ll.OutputError as error:
    print("OutputError", error)
"""


@pytest.mark.parametrize("how", ["full", "kill"])
def test_a_save_that_fails_leaves_the_old_adapter(tmp_path: Path, run_python: Callable[..., Any], how: str) -> None:
    assert run_python(SAVING, str(tmp_path / "a"), "whole").returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    done = run_python(SAVING, str(tmp_path / "a"), how)
    assert done.returncode == (-signal.SIGKILL if how == "kill" else 0)
    assert how == "kill" or done.stdout.startswith("OutputError")
    after = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before
    assert how == "kill" or after == before


# -- what is tolerated ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["base_model.model._orig_mod.", "module.base_model.model.", "_orig_mod.base_model.model.module."]
)
def test_names_of_wrappers_in_the_keys_are_left_out_and_said(folder: Path, prefix: str) -> None:
    def rename(tensors: Tensors) -> None:
        for key in list(tensors):
            tensors[key.replace("base_model.model.", prefix)] = tensors.pop(key)

    change(folder, rename)
    model = TOYS["linear"].build()
    assert any("wrapper" in note for note in ll.load(model, folder).notes)


def test_loads_into_a_compiled_model(folder: Path) -> None:
    model = TOYS["linear"].build()
    plain = copy.deepcopy(model)
    ll.load(plain, folder)
    ll.load(torch.compile(model, backend="eager"), folder)
    x = torch.randn(2, 3, 16)
    assert torch.equal(quiet(model, x), quiet(plain, x))


def test_names_that_a_model_lacks_are_noted(folder: Path) -> None:
    configure(folder, target_modules=["inner", "q_proj"])
    assert (
        "target_modules names 'q_proj', which this model does not have" in ll.load(TOYS["linear"].build(), folder).notes
    )


def test_half_precision_tensors_are_kept_in_float32(folder: Path) -> None:
    change(folder, lambda t: t.update({key: tensor.bfloat16() for key, tensor in t.items()}))
    adapter = ll.load(TOYS["linear"].build(), folder)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
