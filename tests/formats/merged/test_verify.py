"""The proof of a merged folder: what passes, and that every fault which is put in is found."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.errors import NumericsError
from loralab.files.shards import TensorFolder
from loralab.formats.merged.folder import write_merged
from loralab.formats.merged.verify import Verification, check_tensors, compare, rounding_noise
from loralab.formats.merged.weights import merged_weights
from loralab.formats.probe import logits_of, make_probe
from loralab.methods.lora import LoRA

QUERY = "model.layers.1.self_attn.q_proj.weight"


class Case:
    """A base folder, a live adapter on its model, and the merged folder."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, strength: float = 0.2) -> None:
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.1,
        )
        self.base, self.out = folder / "base", folder / "out"
        LlamaForCausalLM(config).to(dtype).save_pretrained(self.base, max_shard_size="20KB")
        self.model = LlamaForCausalLM.from_pretrained(self.base, dtype=dtype)
        self.adapter = trained(self.model, strength)
        self.found = write_merged(self.model, self.adapter, self.out, source=self.base).verification
        self.weights = merged_weights(self.model, "default", TensorFolder(self.base))

    def compared(self) -> Verification:
        return compare(self.model, "default", self.out, make_probe(self.model))

    def edit(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        file = self.out / TensorFolder(self.out).file_of[name]
        tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
        save_file(tensors | {name: change(tensors[name])}, file, metadata={"format": "pt"})


def trained(model: PreTrainedModel, strength: float, **spec: Any) -> Adapter:
    adapter = attach(model, LoRA(rank=2, alpha=8, **spec))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * strength)
    return adapter


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_a_true_merge_passes_with_room_to_spare(case: Case) -> None:
    found = case.compared()
    check_tensors(case.weights, case.out)
    assert found == case.found
    assert 0 < found.max_abs_logit_error < 0.6 * found.tolerance
    assert found.tolerance < 1e-4 < found.adapter_effect
    assert found.mean_kl < 1e-9
    assert found.argmax_agreement == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_too_with_a_wider_tolerance(dtype: torch.dtype, tmp_path: Path) -> None:
    found = Case(tmp_path, dtype).found
    assert found is not None
    assert found.max_abs_logit_error < 0.6 * found.tolerance
    assert torch.finfo(dtype).eps / 10 < found.tolerance < found.adapter_effect


def test_one_tensor_that_was_not_merged_is_found(case: Case) -> None:
    case.edit(QUERY, lambda tensor: TensorFolder(case.base).read(QUERY).clone())
    assert not case.compared().passed
    with pytest.raises(NumericsError, match=rf"1 of the 21 tensors .* {QUERY}"):
        check_tensors(case.weights, case.out)


def test_a_scale_wrong_by_two_is_found(case: Case) -> None:
    with torch.no_grad():
        for name, parameter in case.adapter.named_parameters():
            if name.endswith("lora_B"):
                parameter.mul_(2)
    assert not case.compared().passed
    with pytest.raises(NumericsError, match="4 of the 21 tensors"):
        check_tensors(merged_weights(case.model, "default", TensorFolder(case.base)), case.out)


def test_the_base_written_unmerged_is_found(case: Case) -> None:
    for file in case.base.glob("*.safetensors"):
        shutil.copy(file, case.out / file.name)
    found = case.compared()
    assert not found.passed
    assert found.max_abs_logit_error == pytest.approx(found.adapter_effect)
    with pytest.raises(NumericsError, match="4 of the 21 tensors"):
        check_tensors(case.weights, case.out)


def test_a_shard_cut_short_is_found(case: Case) -> None:
    shard = sorted(case.out.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(NumericsError, match="the merged folder cannot be opened"):
        case.compared()
    with pytest.raises(NumericsError, match=f"{shard.name} cannot be read"):
        check_tensors(case.weights, case.out)


def test_a_shard_that_is_not_there_is_found(case: Case) -> None:
    sorted(case.out.glob("*.safetensors"))[0].unlink()
    with pytest.raises(NumericsError, match="the merged folder cannot be opened"):
        case.compared()
    with pytest.raises(NumericsError, match="cannot be read"):
        check_tensors(case.weights, case.out)


def test_weights_that_were_left_out_are_found(case: Case) -> None:
    file = case.out / TensorFolder(case.out).file_of[QUERY]
    kept = {name: tensor.clone() for name, tensor in load_file(file).items() if name != QUERY}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(NumericsError, match=rf"does not hold all of LlamaForCausalLM: {QUERY}"):
        case.compared()
    with pytest.raises(NumericsError, match=QUERY):
        check_tensors(case.weights, case.out)


def test_a_config_that_computes_something_else_is_found(case: Case) -> None:
    config = case.out / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1'))
    check_tensors(case.weights, case.out)
    assert not case.compared().passed


def test_a_fault_below_rounding_is_found_by_the_bits(tmp_path: Path) -> None:
    case = Case(tmp_path, torch.bfloat16, strength=0.0)
    with torch.no_grad():
        for name, parameter in case.adapter.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(std=2e-3)
    assert case.compared().passed
    assert not case.compared().tells
    with pytest.raises(NumericsError, match="4 of the 21 tensors"):
        check_tensors(merged_weights(case.model, "default", TensorFolder(case.base)), case.out)


def test_noise_is_measured_with_the_weights_put_back(case: Case) -> None:
    probe = make_probe(case.model)
    before, live = dict(case.model.named_parameters()), logits_of(case.model, probe)
    noise = rounding_noise(case.model, "default", torch.finfo(torch.float32).eps, probe, live)
    assert 0 < noise < 1e-4
    assert all(each is before[name] for name, each in case.model.named_parameters())
    assert all(map(torch.equal, live, logits_of(case.model, probe)))


def test_nan_logits_do_not_pass(case: Case) -> None:
    case.edit("model.norm.weight", lambda tensor: tensor * float("nan"))
    assert not case.compared().passed


def test_models_without_logits_and_of_sound(tmp_path: Path) -> None:
    sizes: Any = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = BertModel(BertConfig(vocab_size=64, max_position_embeddings=20, **sizes))
    sound = Wav2Vec2Model(
        Wav2Vec2Config(
            **sizes,
            conv_dim=(16, 16),
            conv_stride=(10, 8),
            conv_kernel=(10, 8),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        )
    )
    for name, model, targets in (("bert", bert, ["query", "value"]), ("sound", sound, ["q_proj", "v_proj"])):
        found = write_merged(model, trained(model.eval(), 0.2, targets=targets), tmp_path / name).verification
        assert found is not None
        assert found.passed
        assert found.tells
        assert isinstance(AutoModel.from_pretrained(tmp_path / name), nn.Module)
