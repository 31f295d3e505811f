"""PEFT's other forms of LoRA (AdaLoRA, …) are read as the plain LoRA that they come to, and computed as PEFT does."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import MontecloraConfig, VeloraConfig
from peft.utils.warning import PeftWarning
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loralab as ll
from loralab.errors import AdapterFileError
from loralab.formats.convert import convert
from loralab.formats.doctor.examine import examine
from loralab.formats.inspect import inspect
from loralab.formats.resize import read_resizable, uniform_ranks, write_resized
from oracle.case import assert_same, output, peft_loads, peft_model, theirs_saved
from oracle.model_cases import MODELS
from oracle.peft_warnings import silenced

pytestmark = silenced
IDS = {"input_ids": torch.arange(3, 9).view(1, 6)}
TEXT = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip
BUDGET = {"init_r": 5, "target_r": 3, "tinit": 1, "tfinal": 1, "total_step": 9, "lora_alpha": 7}


def llama() -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, num_key_value_heads=2)).eval()


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(hf.BertConfig(**TEXT)).eval()


def gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=64)).eval()


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, object]]] = {
    "llama": (llama, {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "all-linear": (llama, {"target_modules": "all-linear"}),
    "one layer": (llama, {"target_modules": ["v_proj"], "layers_to_transform": [1]}),
    "a head in full": (bert, {"target_modules": ["value", "output.dense"], "task_type": "SEQ_CLS"}),
    "biases": (bert, {"target_modules": ["value", "output.dense"], "bias": "lora_only"}),
    "weights the other way": (gpt2, {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "no alpha": (llama, {"target_modules": ["v_proj", "o_proj"], "lora_alpha": 0}),
    "settings that AdaLoRA leaves aside": (llama, {"target_modules": ["v_proj", "o_proj"], "use_rslora": True}),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def adalora(base: nn.Module, folder: Path, ranks: list[int] | None, **settings: object) -> None:
    """PEFT's folder; with `ranks`, in turn the number of singular values that the allocation left to a layer."""
    model = get_peft_model(copy.deepcopy(base), AdaLoraConfig(**BUDGET | settings))
    kept: dict[str, list[bool]] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.4)
            if ".lora_E." in name and ranks is not None:
                keep = torch.randperm(len(parameter)) < ranks[len(kept) % len(ranks)]
                parameter[~keep] = 0
                kept[name.removeprefix("base_model.model.")] = keep.tolist()
    model.peft_config["default"].rank_pattern = kept or None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LoRA tensor\(s\) have invalid shape", PeftWarning)  # of rank 0
        model.save_pretrained(folder)


def theirs(base: nn.Module, folder: Path) -> PeftModel:
    """PEFT's model from its own folder, without its warning that the names of its own rank_pattern match nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following rank_pattern keys", RuntimeWarning)
        return peft_loads(base, folder)


@every_case
@pytest.mark.parametrize("ranks", [None, [3, 1, 5, 0], [2]], ids=["before", "allocated", "one rank"])
def test_adalora_computes_what_it_does_in_peft(
    tmp_path: Path, case: tuple[Callable[[], nn.Module], dict[str, object]], ranks: list[int] | None
) -> None:
    base = case[0]()
    adalora(base, tmp_path / "theirs", ranks, **case[1])
    expected, plain = output(theirs(base, tmp_path / "theirs"), IDS), output(base, IDS)
    ours = copy.deepcopy(base)
    adapter = ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, IDS), expected, unlike=plain)
    assert any("AdaLoRA" in note for note in adapter.notes)
    ll.save(adapter, tmp_path / "ours", model=ours)
    assert_same(output(peft_loads(base, tmp_path / "ours"), IDS), expected, unlike=plain)
    convert(tmp_path / "theirs", tmp_path / "plain")
    assert_same(output(peft_loads(base, tmp_path / "plain"), IDS), expected, unlike=plain)


def test_adalora_without_a_model(tmp_path: Path) -> None:
    base = llama()
    adalora(base, tmp_path / "theirs", [3, 1, 0], target_modules=["v_proj", "o_proj"])
    found = inspect(tmp_path / "theirs")
    assert found.method == "lora"
    assert isinstance(found.rank, dict)
    assert sorted(set(found.rank.values())) == [1, 3]
    assert examine(tmp_path / "theirs").healthy
    resizable = read_resizable(tmp_path / "theirs")
    write_resized(resizable, uniform_ranks(resizable, 3), tmp_path / "same", "as it was")
    expected = output(theirs(base, tmp_path / "theirs"), IDS)
    assert_same(output(peft_loads(base, tmp_path / "same"), IDS), expected, unlike=output(base, IDS))


def spoil(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def test_an_adalora_with_a_factor_missing_or_unfit_is_refused(tmp_path: Path) -> None:
    base = llama()
    adalora(base, tmp_path, [3], target_modules=["v_proj"])
    key = "base_model.model.model.layers.1.self_attn.v_proj.lora_A"
    spoil(tmp_path, lambda tensors: tensors.update({key: tensors[key][:2].clone()}))
    with pytest.raises(AdapterFileError, match=r"layers\.1\.self_attn\.v_proj has 3 singular values"):
        ll.load(base, tmp_path)
    spoil(tmp_path, lambda tensors: tensors.pop(key))
    with pytest.raises(AdapterFileError, match=r"layers\.1\.self_attn\.v_proj\.lora_A of an AdaLoRA .* is missing"):
        ll.load(base, tmp_path)


# -- slices of a fused projection, as PEFT 0.1 and 0.2 wrote them ------------------------------------------------


def enabled_folder(base: nn.Module, folder: Path, name: str, enabled: list[bool], groups: int) -> None:
    """The files that PEFT 0.2 wrote (in 0.1 `peft_type` and the rest are the same), with rank 4 for every slice."""
    count, rank, tensors = sum(enabled), 4, {}
    for path, module in base.named_modules():
        if path.endswith(name):
            outputs, inputs = module.nf if name == "c_attn" else len(module.weight), 16
            stem = f"base_model.model.{path}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(count * rank, inputs)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(outputs // len(enabled) * count, count * rank // groups, 1)
    config = {
        "base_model_name_or_path": "base", "bias": "none", "enable_lora": enabled, "fan_in_fan_out": name == "c_attn",
        "inference_mode": True, "lora_alpha": 6, "lora_dropout": 0.1, "merge_weights": False, "modules_to_save": None,
        "peft_type": "LORA", "r": rank, "target_modules": [name], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.save(tensors, folder / "adapter_model.bin")


def as_it_computed(base: nn.Module, folder: Path, groups: int) -> nn.Module:
    """The base with hooks that add what PEFT 0.2's layers added: a grouped convolution, zero in the other slices."""
    model, config = copy.deepcopy(base), json.loads((folder / "adapter_config.json").read_text())
    tensors, enabled = torch.load(folder / "adapter_model.bin"), torch.tensor(config["enable_lora"])
    for path, module in model.named_modules():
        if f"base_model.model.{path}.lora_A.weight" in tensors:
            A, B = (tensors[f"base_model.model.{path}.lora_{each}.weight"] for each in "AB")

            def add(_: nn.Module, inputs: tuple[Tensor], result: Tensor, A: Tensor = A, B: Tensor = B) -> Tensor:
                low = (inputs[0] @ A.T).transpose(-2, -1)
                high = nn.functional.conv1d(low, B, groups=groups).transpose(-2, -1)
                change = torch.zeros_like(result)
                rows = torch.repeat_interleave(enabled, result.shape[-1] // len(enabled))
                change[..., rows] = high
                return result + change * config["lora_alpha"] / config["r"]

            module.register_forward_hook(add)
    return model


def neox() -> nn.Module:
    return hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(
            vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    ).eval()


@pytest.mark.parametrize(
    ("enabled", "groups"),
    [
        ([True, False, True], 2),
        ([False, True, True], 2),
        ([True, True, True], 2),
        ([True, False, False], 2),
        ([True, True, True], 3),
        ([True], 1),
    ],
)
@pytest.mark.parametrize(("build", "name"), [(gpt2, "c_attn"), (neox, "query_key_value")])
def test_enabled_slices_compute_what_they_did(
    tmp_path: Path, build: Callable[[], nn.Module], name: str, enabled: list[bool], groups: int
) -> None:
    base = build()
    enabled_folder(base, tmp_path / "old", name, enabled, groups)
    expected, plain = output(as_it_computed(base, tmp_path / "old", groups), IDS), output(base, IDS)
    ours = copy.deepcopy(base)
    ll.load(ours, tmp_path / "old")
    assert_same(output(ours, IDS), expected, unlike=plain)
    written = convert(tmp_path / "old", tmp_path / "new")
    assert written.lossless
    assert any("enable_lora" in note for note in written.notes)
    assert_same(output(peft_loads(base, tmp_path / "new"), IDS), expected, unlike=plain)


@pytest.mark.parametrize("change", [{"enable_lora": [1, 0, 1]}, {"enable_lora": "qv"}, {"r": 3}, {"r": None}])
def test_enabled_slices_that_cannot_be_known_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    enabled_folder(gpt2(), tmp_path / "old", "c_attn", [True, False, True], 2)
    file = tmp_path / "old" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(AdapterFileError, match=r"enable_lora .*merge it into its base with the PEFT that wrote it"):
        convert(tmp_path / "old", tmp_path / "new")


def test_slices_without_a_convolution_are_refused(tmp_path: Path) -> None:
    enabled_folder(gpt2(), tmp_path / "old", "c_attn", [True, False, True], 2)
    file = tmp_path / "old" / "adapter_model.bin"
    torch.save({key: each.flatten(1) for key, each in torch.load(file).items()}, file)
    with pytest.raises(AdapterFileError, match="no convolution of width 1 over 8 ranks"):
        ll.load(gpt2(), tmp_path / "old")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_tensors_of_eight_bits_compute_what_they_do_in_peft(tmp_path: Path, dtype: torch.dtype) -> None:
    case = MODELS["llama"]
    base, _ = theirs_saved(case, tmp_path)
    spoil(tmp_path, lambda tensors: tensors.update({key: each.to(dtype) for key, each in tensors.items()}))
    x, ours = case.inputs(), copy.deepcopy(base)
    adapter = ll.load(ours, tmp_path)
    assert_same(output(ours, x), output(peft_loads(base, tmp_path), x), unlike=output(base, x))
    live = output(ours, x)
    ll.merge(ours)
    assert_same(output(ours, x), live, unlike=output(base, x))
    assert all(each.dtype == torch.float32 for each in adapter.parameters())
    assert max(inspect(tmp_path).delta_norms.values()) > 0


# -- methods that differ from LoRA in training only ----------------------------------------------------------------

IN_TRAINING = {
    "velora": ("VeLoRA", {"velora_config": VeloraConfig(num_groups=4, scale=2.0)}),
    "velora, from a random start": ("VeLoRA", {"velora_config": VeloraConfig(num_groups=4, init_type="random")}),
    "monteclora": ("MonteCLoRA", {"monteclora_config": MontecloraConfig(buffer_size=10, num_samples=2)}),
}


@pytest.mark.parametrize(("name", "settings"), IN_TRAINING.values(), ids=IN_TRAINING.keys())
def test_methods_of_training_compute_what_they_do_in_peft(
    tmp_path: Path, name: str, settings: dict[str, object]
) -> None:
    base = llama()
    model = peft_model(base, target_modules=["v_proj", "o_proj"], use_rslora=True, **settings)
    model.train()(**IDS)  # fills what they keep of the inputs
    model.eval().save_pretrained(tmp_path / "theirs")
    expected, plain = output(peft_loads(base, tmp_path / "theirs"), IDS), output(base, IDS)
    ours = copy.deepcopy(base)
    adapter = ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, IDS), expected, unlike=plain)
    assert any(f"trained with {name}" in note for note in adapter.notes)
    assert any(f"trained with {name}" in note for note in inspect(tmp_path / "theirs").notes)
    assert examine(tmp_path / "theirs").healthy
    convert(tmp_path / "theirs", tmp_path / "plain")
    assert not [key for key in load_file(tmp_path / "plain" / "adapter_model.safetensors") if "velora" in key]
    assert_same(output(peft_loads(base, tmp_path / "plain"), IDS), expected, unlike=plain)


def test_a_plain_lora_with_tensors_of_a_method_of_training_is_refused(tmp_path: Path) -> None:
    base = llama()
    model = peft_model(base, target_modules=["v_proj"], velora_config=VeloraConfig(num_groups=4))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"velora_config": None}))
    with pytest.raises(AdapterFileError, match="lora_velora_embed belongs to nothing"):
        ll.load(base, tmp_path)


# -- in full and in low rank at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"modules_to_save": ["classifier"]}, {"task_type": "SEQ_CLS"}])
@pytest.mark.parametrize("whole", ["", "base_layer."])
def test_factors_of_a_module_that_is_in_full_are_refused_by_name(
    tmp_path: Path, settings: dict[str, object], whole: str
) -> None:
    base, stem, folder = bert(), "base_model.model.classifier", tmp_path / "old"
    peft_model(base, target_modules=["query", "classifier"], **settings).save_pretrained(folder)
    ll.load(copy.deepcopy(base), folder)  # as PEFT writes it today: the factors left out

    def as_in_2023(tensors: dict[str, Tensor]) -> None:
        for leaf in ("weight", "bias"):
            tensors[f"{stem}.{whole}{leaf}"] = tensors.pop(f"{stem}.{leaf}")
        tensors |= {f"{stem}.lora_A.weight": torch.randn(2, 16), f"{stem}.lora_B.weight": torch.randn(3, 2)}

    spoil(folder, as_in_2023)
    for read in (lambda: ll.load(base, folder), lambda: inspect(folder), lambda: convert(folder, tmp_path / "new")):
        with pytest.raises(AdapterFileError, match=r"classifier is trained in full .*and has low-rank factors"):
            read()
    assert any("has low-rank factors" in each.what for each in examine(folder).findings)
