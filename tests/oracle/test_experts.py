"""Models whose experts transformers 5 keeps in one tensor: PEFT computes what we save of them, and we what it saves."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import loralab as ll
from loralab.formats.read import read_adapter
from oracle.case import Case, assert_same, ours_saved, output, peft_loads, theirs_saved
from oracle.peft_warnings import silenced
from toys import give_effect

pytestmark = silenced
SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "num_experts_per_tok": 2,
    "experts_implementation": "eager",
}  # fmt: skip
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "Mixtral": ("Mixtral", {"num_local_experts": 4}, ["o_proj"]),
    "Qwen3-MoE": ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 12, "mlp_only_layers": [0]}, []),
    "Qwen2-MoE": ("Qwen2Moe", {
        "num_experts": 4, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12,
    }, ["o_proj"]),
    "DeepSeek-V3": ("DeepseekV3", LATENT | {
        "n_routed_experts": 4, "moe_intermediate_size": 12, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    }, ["o_proj"]),
    "GLM-4-MoE": ("Glm4Moe", {
        "n_routed_experts": 4, "moe_intermediate_size": 12, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    }, ["o_proj"]),
    "GPT-OSS": ("GptOss", {"num_local_experts": 4, "head_dim": 8}, ["o_proj"]),
    "Granite-MoE": ("GraniteMoe", {"num_local_experts": 4}, ["o_proj"]),
}  # fmt: skip
DENSE = ("Qwen3-MoE", "Qwen2-MoE", "DeepSeek-V3", "GLM-4-MoE")
"""Those that have dense layers beside the experts, of the names that the experts' own layers had."""
dense = pytest.mark.parametrize("family", DENSE)
every_family = pytest.mark.parametrize("family", FAMILIES)


def builder(family: str) -> Callable[[], nn.Module]:
    name, fields, _ = FAMILIES[family]

    def build() -> nn.Module:
        torch.manual_seed(0)
        return getattr(hf, f"{name}ForCausalLM")(getattr(hf, f"{name}Config")(**SIZES | fields))

    return build


def case(family: str, targets: list[str]) -> Case:
    by_module = [name for name in targets if not name.startswith("experts.")]
    parameters = [name for name in targets if name.startswith("experts.")]
    theirs = {"target_modules": by_module, "target_parameters": parameters}
    return Case(builder(family), lambda: {"input_ids": torch.arange(3, 19).view(2, 8)}, {"targets": targets}, theirs)


def checked_both_ways(folder: Path, base: nn.Module, ours: nn.Module, case: Case) -> None:
    """PEFT computes the folder's adapter as we do, and we what PEFT wrote of it in its turn."""
    x = case.inputs()
    theirs = peft_loads(base, folder)
    assert_same(output(theirs, x), output(ours, x), unlike=output(base, x))
    theirs.save_pretrained(folder.with_name("again"))
    for each in (folder, folder.with_name("again")):
        model = copy.deepcopy(base)
        ll.load(model, each)
        assert_same(output(model, x), output(ours, x), unlike=output(base, x))


@dense
@pytest.mark.parametrize("targets", [["down_proj"], ["gate_proj", "up_proj", "o_proj"]])
def test_peft_adapts_the_dense_layers_and_not_the_experts(tmp_path: Path, family: str, targets: list[str]) -> None:
    each = case(family, targets)
    base, ours = ours_saved(each, tmp_path / "ours", rank_pattern={"down_proj": 3} if len(targets) == 1 else {})
    checked_both_ways(tmp_path / "ours", base, ours, each)


@dense
def test_nor_does_it_of_a_folder_that_was_saved_without_the_model(tmp_path: Path, family: str) -> None:
    each = case(family, ["down_proj", "o_proj"])
    base, x = each.make()
    ours = copy.deepcopy(base)
    adapter = ll.attach(ours, ll.LoRA(rank=2, alpha=5, targets=["down_proj", "o_proj"]))
    give_effect(adapter)
    ll.save(adapter, tmp_path)
    assert_same(output(peft_loads(base, tmp_path), x), output(ours, x), unlike=output(base, x))


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match any targeted module:RuntimeWarning")
@dense
def test_dense_layers_beside_experts(tmp_path: Path, family: str) -> None:
    each = case(family, ["experts.gate_up_proj", "experts.down_proj", "down_proj", "o_proj"])
    base, ours = ours_saved(each, tmp_path / "ours", alpha_pattern={"down_proj": 3})
    checked_both_ways(tmp_path / "ours", base, ours, each)


def test_what_is_read_without_the_model_has_the_same_names_and_scales(tmp_path: Path) -> None:
    each = case("DeepSeek-V3", ["down_proj", "o_proj"])
    base, _ = ours_saved(each, tmp_path / "ours", rank_pattern={"down_proj": 3}, alpha_pattern={"down_proj": 7})
    peft_loads(base, tmp_path / "ours").save_pretrained(tmp_path / "again")
    pairs = [{pair.name: (pair.kind, pair.scale) for pair in read_adapter(tmp_path / name).demand().updates} for name in
             ("ours", "again")]  # fmt: skip
    assert pairs[0] == pairs[1]
    assert pairs[0]["model.layers.0.mlp.down_proj"] == ("linear", 7 / 3)


@dense
def test_dora_of_such_layers_is_not_called_pefts(tmp_path: Path, family: str) -> None:
    base, _ = ours_saved(case(family, [r".*(mlp|shared_experts?)\.down_proj"]), tmp_path / "ours", magnitude=True)
    with pytest.raises((KeyError, ValueError), match="LORALAB"):
        peft_loads(base, tmp_path / "ours")


@every_family
@pytest.mark.parametrize("targets", [["experts.gate_up_proj", "experts.down_proj"], ["experts.down_proj", "o_proj"]])
def test_we_compute_the_experts_that_peft_adapted(tmp_path: Path, family: str, targets: list[str]) -> None:
    each = case(family, targets)
    base, theirs = theirs_saved(each, tmp_path / "theirs")
    ours, x = copy.deepcopy(base), each.inputs()
    ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3-MoE", "DeepSeek-V3"])
def test_we_compute_what_peft_makes_of_the_names_that_experts_had(tmp_path: Path, family: str) -> None:
    names = ["w1", "w2", "w3"] if family == "Mixtral" else ["gate_proj", "up_proj", "down_proj"]
    each = case(family, [*names, "o_proj"])
    base, theirs = theirs_saved(each, tmp_path / "theirs")
    ours, x = copy.deepcopy(base), each.inputs()
    ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))
