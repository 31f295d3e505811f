"""What is refused of PEFT's says what to do instead, and what it says works."""

import copy
import json
from pathlib import Path

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig
from torch import nn
from transformers import LlamaForCausalLM

import loralab as ll
from oracle.case import Case, assert_same, output, theirs_saved
from oracle.model_cases import llama, tokens
from oracle.module_cases import MLP, rows
from oracle.peft_warnings import silenced

pytestmark = [*silenced, pytest.mark.filterwarnings("ignore:PiSSA changes the base weights of the model:UserWarning")]
BOTH = {"target_modules": ["lin0", "lin1"]}
CONVERSION = "path_initial_model_for_weight_conversion"

SAID = {
    "init_lora_weights": {
        "pissa": rf"{CONVERSION}.*or load it in the PEFT that wrote it.*merge_and_unload",
        "olora": rf"{CONVERSION}.*or load it in the PEFT that wrote it.*merge_and_unload",
        "pissa_niter_16": rf"{CONVERSION}.*or merge_and_unload there.*fast SVD is random",
        "corda": rf"{CONVERSION}.*or merge_and_unload there.*would need the data",
        "lora_ga": rf"{CONVERSION}.*or merge_and_unload there.*would need the data",
        "loftq": r"base that LoftQ quantised.*merge_and_unload",
        "of tomorrow": "load it in the PEFT that wrote it",
    },
    "layer_replication": {((0, 2), (1, 3)): "copy its layers in that order.*layer_replication null"},
    "megatron_config": {"some": r"merge it there.*set megatron_config to null"},
    "arrow_config": {"some": "load those adapters one by one"},
    "use_qalora": {True: "run it in PEFT"},
    "use_bdlora": {"some": "load it in the PEFT that wrote it.*merge_and_unload, and save the model"},
    "kasa_config": {"some": "load it in the PEFT that wrote it.*merge_and_unload, and save the model"},
    "use_tomorrows": {True: "load it in the PEFT that wrote it.*merge_and_unload, and save the model"},
    "peft_type": {
        "IA3": "load it in the PEFT that wrote it.*merge_and_unload, and save the model",
        "LOHA": "load it in the PEFT that wrote it.*merge_and_unload, and save the model",
        "PREFIX_TUNING": "changes no weights.*run it in PEFT",
    },
}
EVERY = [(key, value, said) for key, values in SAID.items() for value, said in values.items()]


@pytest.mark.parametrize("key, value, said", EVERY, ids=[f"{key} {value}" for key, value, _ in EVERY])
def test_what_is_refused_says_what_to_do_instead(tmp_path: Path, key: str, value: object, said: str) -> None:
    base, _ = theirs_saved(Case(MLP, rows, {}, BOTH), tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(ll.AdapterFileError, match=f"{key} is .*{said}"):
        ll.load(base, tmp_path)


MERGED = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "kasa": {"kasa_config": KasaConfig()},
    "block-diagonal": {"use_bdlora": BdLoraConfig(target_modules_bd_a=["lin0"], target_modules_bd_b=["lin1"])},
}


@pytest.mark.parametrize("kind", MERGED)
def test_peft_loads_and_merges_what_we_send_back_to_it(tmp_path: Path, kind: str) -> None:
    base, theirs = theirs_saved(Case(MLP, rows, {}, BOTH | MERGED[kind]), tmp_path)
    with pytest.raises(ll.AdapterFileError, match="merge_and_unload"):
        ll.load(copy.deepcopy(base), tmp_path)
    x = rows()
    merged = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval().merge_and_unload()
    assert_same(output(merged, x), output(theirs, x), unlike=output(base, x))


def test_repeated_layers_load_onto_a_base_that_has_them(tmp_path: Path) -> None:
    base = llama().eval()
    count = base.config.num_hidden_layers
    order = [(0, count), (0, count)]
    fields = {"target_modules": ["q_proj"], "layer_replication": order, "init_lora_weights": False}
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, lora_alpha=40, **fields)).eval()
    theirs.save_pretrained(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layer_replication": None}))
    larger, x = with_layers(base, [number for start, stop in order for number in range(start, stop)]), tokens()
    before = output(larger, x)
    ll.load(larger, tmp_path)
    assert_same(output(larger, x), output(theirs, x), unlike=before)


def with_layers(base: LlamaForCausalLM, numbers: list[int]) -> LlamaForCausalLM:
    """A model of copies of the base's layers, in this order."""
    made = copy.deepcopy(base)
    made.config.num_hidden_layers = len(numbers)
    made.model.layers = nn.ModuleList(copy.deepcopy(base.model.layers[number]) for number in numbers)
    for place, layer in enumerate(made.model.layers):
        layer.self_attn.layer_idx = place
    return made


def test_pissa_by_its_fast_svd_is_another_model_when_it_is_loaded_again(tmp_path: Path) -> None:
    """Which is why that is not what we advise."""
    base, theirs = theirs_saved(Case(MLP, rows, {}, BOTH | {"init_lora_weights": "pissa_niter_1"}), tmp_path)
    x = rows()
    again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert (output(again, x) - output(theirs, x)).abs().max() > 1e-3
    assert_same(output(theirs.merge_and_unload(), x), output(theirs, x), unlike=output(base, x))
