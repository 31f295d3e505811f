"""PEFT's other forms of LoRA (AdaLoRA, …) are read as the plain LoRA that they come to, and computed as PEFT does."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft.utils.warning import PeftWarning
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loralab as ll
from loralab.errors import AdapterFileError
from loralab.formats.convert import convert
from loralab.formats.doctor import examine
from loralab.formats.inspect import inspect
from loralab.formats.resize import read_resizable, uniform_ranks, write_resized
from oracle.case import assert_same, output, peft_loads
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
    assert not [each for each in examine(tmp_path / "theirs").findings if each.severity == "error"]
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
