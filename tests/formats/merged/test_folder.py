"""Merged folders: standalone, exact, complete, verified before they appear."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    HrmTextConfig,
    HrmTextForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from loralab.core.adapter import Adapter
from loralab.core.attach import activate, attach, detach
from loralab.core.merge import merge, plan_merge, unmerge
from loralab.errors import AdapterStateError, NumericsError, OutputError, SpecError
from loralab.files.shards import INDEX, TensorFolder, same_bits
from loralab.formats.merged.folder import write_merged
from loralab.methods.lora import LoRA
from loralab.models.load import load_model

TINY: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(**settings: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, **TINY, **settings)).eval()


def saved(model: PreTrainedModel, folder: Path, **settings: Any) -> Path:
    model.save_pretrained(folder, **settings)
    return folder


def adapted(model: PreTrainedModel, **spec: Any) -> Adapter:
    """A LoRA whose every trained tensor is as if it had been trained."""
    adapter = attach(model, LoRA(rank=2, alpha=8, **spec))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return adapter


def changed(base: Path, out: Path) -> set[str]:
    left, right = TensorFolder(base), TensorFolder(out)
    return {name for name in right.kinds if not same_bits(left.read(name), right.read(name))}


def ids() -> Tensor:
    return torch.arange(12).reshape(2, 6)


def test_a_sharded_llama_keeps_its_shards_and_everything_unadapted(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base", max_shard_size="10KB")
    model = LlamaForCausalLM.from_pretrained(base)
    adapter = adapted(model, targets=["q_proj", "v_proj"])
    result = write_merged(model, adapter, tmp_path / "out", source=base)
    assert result.tensors == 4
    assert changed(base, tmp_path / "out") == {name.full_name for name in plan_merge(model)}
    assert TensorFolder(tmp_path / "out").file_of == TensorFolder(base).file_of
    assert len(set(TensorFolder(base).file_of.values())) > 3
    assert json.loads((tmp_path / "out" / INDEX).read_text()) == json.loads((base / INDEX).read_text())


def test_the_values_are_those_of_merging_in_memory(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(base)
    adapter = adapted(model, targets="all-linear")
    write_merged(model, adapter, tmp_path / "out", source=base)
    written = TensorFolder(tmp_path / "out")
    assert all(same_bits(written.read(each.full_name), each.merged) for each in plan_merge(model))


def test_transformers_alone_loads_it_and_computes_the_same(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(base)
    adapter = adapted(model)
    found = write_merged(model, adapter, tmp_path / "out", source=base).verification
    assert found is not None
    assert found.passed
    assert found.tells
    assert found.argmax_agreement == 1.0
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(reopened(ids()).logits, model(ids()).logits, rtol=0, atol=1e-5)
    assert not any(b"lora" in file.read_bytes().lower() for file in (tmp_path / "out").iterdir())


def test_the_live_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = llama().train()
    model.lm_head.eval()
    adapted(model)
    activate(model, None)
    flags = [module.training for module in model.modules()]
    tensors = dict(model.named_parameters())
    before = {name: each.detach().clone() for name, each in tensors.items()}
    config = model.config.to_dict()
    write_merged(model, "default", tmp_path / "out")
    assert [module.training for module in model.modules()] == flags
    assert all(each is tensors[name] and torch.equal(each, before[name]) for name, each in model.named_parameters())
    assert model.config.to_dict() == config
    with torch.no_grad():
        logits = model.eval()(ids()).logits
        detach(model)
        assert torch.equal(logits, model(ids()).logits)


def test_the_files_own_values_are_merged_whatever_the_model_computes_in(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    adapter = adapted(model, targets=["q_proj"])
    write_merged(model, adapter, tmp_path / "out", source=base)
    name = "model.layers.1.self_attn.q_proj.weight"
    update = adapter.updates["model.layers.1.self_attn.q_proj"]
    delta = update.deltas(nn.Linear(32, 32))["weight"].detach()
    expected = TensorFolder(base).read(name) + delta
    assert expected.dtype == torch.float32
    assert same_bits(TensorFolder(tmp_path / "out").read(name), expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_bfloat16_files_are_rounded_once(tmp_path: Path) -> None:
    base = saved(llama().to(torch.bfloat16), tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapter = adapted(model)
    result = write_merged(model, adapter, tmp_path / "out", source=base)
    assert result.verification is not None
    assert result.verification.tells
    written = TensorFolder(tmp_path / "out")
    for each in plan_merge(model):
        assert same_bits(written.read(each.full_name), each.merged.to(torch.bfloat16))


@pytest.mark.parametrize("targets", [["c_attn[q,v]"], ["c_attn", "c_fc", "c_proj"]])
def test_gpt2_fused_and_transposed(targets: list[str], tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1)
    base = saved(GPT2LMHeadModel(config), tmp_path / "base")
    model = GPT2LMHeadModel.from_pretrained(base)
    adapter = adapted(model, targets=targets, bias="lora_only")
    result = write_merged(model, adapter, tmp_path / "out", source=base)
    assert result.tensors == 2 * 2 * (3 if len(targets) > 1 else 1) + (4 if len(targets) > 1 else 0)
    assert "lm_head.weight" not in TensorFolder(tmp_path / "out").kinds
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


def bert_folder(folder: Path) -> Path:
    return saved(BertModel(BertConfig(vocab_size=64, max_position_embeddings=64, **TINY)), folder)


def test_a_fresh_head_is_added_with_its_labels(tmp_path: Path) -> None:
    base = bert_folder(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(
        base, num_labels=3, id2label={0: "no", 1: "maybe", 2: "yes"}, label2id={"no": 0, "maybe": 1, "yes": 2}
    )
    adapter = adapted(model, bias="all")
    write_merged(model, adapter, tmp_path / "out", source=base)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    reopened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    head = adapter.state_dict()["classifier.weight"]
    assert torch.equal(reopened.classifier.weight, head)
    torch.testing.assert_close(reopened(ids()).logits, model.eval()(ids()).logits, rtol=0, atol=1e-5)
    assert all(name.startswith(("bert.", "classifier.")) for name in TensorFolder(tmp_path / "out").kinds)


def test_a_fresh_head_that_the_adapter_leaves_alone_is_written_too(tmp_path: Path) -> None:
    base = bert_folder(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(base)
    adapter = adapted(model, modules_to_save=[])
    write_merged(model, adapter, tmp_path / "out", source=base)
    assert same_bits(TensorFolder(tmp_path / "out").read("classifier.weight"), model.classifier.weight.detach())


def test_a_head_of_another_size_replaces_the_checkpoints(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=64, max_position_embeddings=64, num_labels=5, **TINY)
    base = saved(BertForSequenceClassification(config), tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(base, num_labels=2, ignore_mismatched_sizes=True)
    adapter = adapted(model)
    write_merged(model, adapter, tmp_path / "out", source=base)
    assert TensorFolder(tmp_path / "out").kinds["classifier.weight"].shape == (2, 32)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("from_files", [True, False])
def test_tied_embeddings_are_untied(target: str, from_files: bool, tmp_path: Path) -> None:
    base = saved(llama(tie_word_embeddings=True), tmp_path / "base")
    assert "lm_head.weight" not in TensorFolder(base).kinds
    model = LlamaForCausalLM.from_pretrained(base)
    adapter = adapted(model, targets=[target])
    result = write_merged(model, adapter, tmp_path / "out", source=base if from_files else None)
    written, original = TensorFolder(tmp_path / "out"), TensorFolder(base).read("model.embed_tokens.weight")
    names = {"embed_tokens": "model.embed_tokens.weight", "lm_head": "lm_head.weight"}
    for name, key in names.items():
        assert same_bits(written.read(key), original) == (name != target)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("ties" in note for note in result.notes)


def test_two_ties_are_both_written_when_one_is_undone(tmp_path: Path) -> None:
    base = saved(BertForMaskedLM(BertConfig(vocab_size=64, max_position_embeddings=64, **TINY)), tmp_path / "base")
    model = BertForMaskedLM.from_pretrained(base)
    adapter = adapted(model, targets=["word_embeddings"])
    write_merged(model, adapter, tmp_path / "out", source=base)
    assert {"cls.predictions.bias", "cls.predictions.decoder.bias"} <= TensorFolder(tmp_path / "out").kinds.keys()


@pytest.mark.parametrize("targets", ["attention", ["experts.gate_up_proj", "experts.down_proj", "q_proj"]])
@pytest.mark.parametrize("from_files", [True, False])
def test_mixtral_whose_files_hold_expert_by_expert(targets: Any, from_files: bool, tmp_path: Path) -> None:
    config = MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=3, **TINY)
    base = saved(MixtralForCausalLM(config), tmp_path / "base", max_shard_size="20KB")
    model = MixtralForCausalLM.from_pretrained(base)
    adapter = adapted(model, targets=targets)
    result = write_merged(model, adapter, tmp_path / "out", source=base if from_files else None)
    assert result.notes == ()
    assert TensorFolder(tmp_path / "out").kinds.keys() == TensorFolder(base).kinds.keys()
    experts = {name for name in changed(base, tmp_path / "out") if ".experts." in name}
    assert len(experts) == (0 if targets == "attention" else 2 * 3 * 3)


@pytest.mark.parametrize("target", ["q_proj", "down_proj"])
def test_a_model_whose_files_hold_q_k_and_v_in_one(target: str, tmp_path: Path) -> None:
    config = HrmTextConfig(vocab_size=64, num_key_value_heads=4, head_dim=8, **TINY)
    base = saved(HrmTextForCausalLM(config).to(torch.bfloat16), tmp_path / "base")
    model = HrmTextForCausalLM.from_pretrained(base, dtype=torch.float32)
    result = write_merged(model, adapted(model, targets=[target]), tmp_path / "out", source=base)
    assert any("stored mixed with other tensors" in note for note in result.notes) == (target == "q_proj")
    assert TensorFolder(tmp_path / "out").kinds == TensorFolder(base).kinds
    part = {"q_proj": "gqkv_proj", "down_proj": "down_proj"}[target]
    assert changed(base, tmp_path / "out") == {name for name in TensorFolder(base).kinds if part in name}


def test_t5_and_a_vision_model(tmp_path: Path) -> None:
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    )
    vit = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=4, **TINY))
    for name, model in (("t5", t5), ("vit", vit)):
        base = saved(model.eval(), tmp_path / name)
        found = write_merged(model, adapted(model), tmp_path / f"{name}-out", source=base).verification
        assert found is not None
        assert found.passed
        assert found.tells


@pytest.mark.parametrize("from_files", [True, False])
def test_generation_settings_of_an_older_base_go_along(from_files: bool, tmp_path: Path) -> None:
    """BART's first token was said in config.json alone, before there was a file for it."""
    sizes: dict[str, int] = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16}
    config = BartConfig(vocab_size=64, max_position_embeddings=64, decoder_start_token_id=2, **sizes, **heads)
    base = saved(BartForConditionalGeneration(config), tmp_path / "base")
    (base / "generation_config.json").unlink()
    settings = json.loads((base / "config.json").read_text())
    older = {"forced_bos_token_id": 7, "num_beams": 4, "temperature": 0.5}
    (base / "config.json").write_text(json.dumps(settings | older))
    model = BartForConditionalGeneration.from_pretrained(base)
    write_merged(model, adapted(model), tmp_path / "out", source=base if from_files else None)
    again = BartForConditionalGeneration.from_pretrained(tmp_path / "out").generation_config
    assert {name: getattr(again, name) for name in older} == older


def test_a_changed_base_is_written_from_memory_and_said(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.norm.weight.add_(0.5)
    adapter = adapted(model)
    result = write_merged(model, adapter, tmp_path / "out", source=base)
    assert "model.norm.weight" in result.notes[0]
    assert "from memory" in result.notes[0]
    assert same_bits(TensorFolder(tmp_path / "out").read("model.norm.weight"), model.model.norm.weight.detach())


def test_what_the_model_has_no_place_for_is_kept(tmp_path: Path) -> None:
    base = saved(BertForMaskedLM(BertConfig(vocab_size=64, max_position_embeddings=64, **TINY)), tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(base)
    adapter = adapted(model)
    write_merged(model, adapter, tmp_path / "out", source=base)
    assert "cls.predictions.bias" in TensorFolder(tmp_path / "out").kinds


def test_small_files_are_copied_and_nothing_else(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base")
    for name in ("tokenizer.json", "LICENSE", "README.md", "pytorch_model.bin", "modules.json", "run.json"):
        (base / name).write_text("{}")
    write_merged((model := LlamaForCausalLM.from_pretrained(base)), adapted(model), tmp_path / "out", source=base)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "LICENSE",
    }  # fmt: skip


def test_the_chosen_adapter_is_merged_and_the_active_one_stays_active(tmp_path: Path) -> None:
    model = llama()
    first = adapted(model)
    attach(model, LoRA(rank=2), name="second")
    write_merged(model, first, tmp_path / "out")
    merged, second = LlamaForCausalLM.from_pretrained(tmp_path / "out")(ids()).logits, model(ids()).logits
    activate(model, "default")
    torch.testing.assert_close(merged, model(ids()).logits, rtol=0, atol=1e-5)
    activate(model, None)
    assert torch.equal(second, model(ids()).logits)


def test_an_untrained_adapter_is_said(tmp_path: Path) -> None:
    model = llama()
    attach(model, LoRA(rank=2))
    result = write_merged(model, "default", tmp_path / "out")
    assert result.verification is not None
    assert result.verification.adapter_effect == 0
    assert "changes nothing" in result.notes[0]


def test_a_failed_verification_leaves_nothing(tmp_path: Path) -> None:
    model = llama()
    adapter = adapted(model)
    model.lm_head.register_forward_hook(lambda module, args, logits: logits * 1.01)
    with pytest.raises(NumericsError, match=r"logits differ by up to .* rounding explains .*out was not written"):
        write_merged(model, adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nan_and_overflow_are_errors_that_name_the_tensor(tmp_path: Path) -> None:
    model = llama().to(torch.float16)
    adapter = adapted(model, targets=["q_proj"])
    factors = adapter.updates["model.layers.1.self_attn.q_proj"].factors_of("weight")
    with torch.no_grad():
        factors.lora_B.fill_(1e6)
    with pytest.raises(NumericsError, match=r"layers.1.self_attn.q_proj.weight .* too large"):
        write_merged(model, adapter, tmp_path / "out")
    with torch.no_grad():
        factors.lora_B[0, 0] = float("nan")
    with pytest.raises(NumericsError, match=r"NaN or infinite values into: model.layers.1.self_attn.q_proj.weight"):
        write_merged(model, adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_place_is_refused(tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(saved(llama(), tmp_path / "base"))
    adapter = adapted(model)
    with pytest.raises(OutputError, match="exists already"):
        write_merged(model, adapter, tmp_path / "base", source=tmp_path / "base")
    with pytest.raises(OutputError, match="inside the base's own"):
        write_merged(model, adapter, tmp_path / "base" / "out", source=tmp_path / "base")


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    model = llama()
    adapter = adapted(model)
    with pytest.raises(SpecError, match="verify is 'maybe'"):
        write_merged(model, adapter, tmp_path / "out", verify="maybe")
    merge(model)
    with pytest.raises(AdapterStateError, match="unmerge"):
        write_merged(model, adapter, tmp_path / "out")
    unmerge(model)
    plain = nn.Sequential(nn.Linear(4, 4))
    attach(plain, LoRA(rank=2, targets=["0"]))
    with pytest.raises(SpecError, match="not a transformers model"):
        write_merged(plain, "default", tmp_path / "out")  # type: ignore[arg-type]


def test_tensors_alone_can_be_verified(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(base)
    result = write_merged(model, adapted(model), tmp_path / "out", source=base, verify="tensors")
    assert result.verification is None
    assert len(changed(base, tmp_path / "out")) == 4


@pytest.mark.slow
def test_smollm2(smollm2: Path, tmp_path: Path) -> None:
    loaded = load_model(str(smollm2), dtype="float32")
    adapter = adapted(loaded.model)
    found = write_merged(
        loaded.model, adapter, tmp_path / "out", source=smollm2, tokenizer=loaded.tokenizer
    ).verification
    assert found is not None
    assert found.max_abs_logit_error < 0.7 * found.tolerance
    assert found.tells
    assert found.mean_kl < 0.01
