"""What inspect says is what the adapter is and does."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import loralab as ll
from loralab.core.adapter import adapters_on
from loralab.formats.inspect import inspect
from toys import TOYS, give_effect


@pytest.mark.parametrize("kind", TOYS)
def test_norms_are_those_of_the_merged_change(tmp_path: Path, kind: str) -> None:
    model = TOYS[kind].build()
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=6, targets=TOYS[kind].targets))
    give_effect(adapter)
    ll.save(adapter, tmp_path / "a")
    found = inspect(tmp_path / "a")
    assert (found.rank, found.alpha, found.method, found.dead_tensors) == (2, 6, "lora", [])
    assert found.delta_norms is not None
    whole = sum(norm**2 for norm in found.delta_norms.values()) ** 0.5
    merged = sum(change**2 for change in ll.merge(model).changes.values()) ** 0.5
    assert whole == pytest.approx(merged, rel=1e-5)


def test_the_answer_for_parts_of_a_fused_projection(tmp_path: Path) -> None:
    model = TOYS["fused thirds"].build()
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=6, targets=["inner[q,v]"], rank_pattern={r"inner\[v\]": 3}))
    ll.save(adapter, tmp_path / "a")
    found = inspect(tmp_path / "a").to_json()
    assert found["targets"] == ["inner[q]", "inner[v]"]
    assert found["rank"] == {"inner[q]": 2, "inner[v]": 3}
    assert found["base_fingerprint"].startswith("sha256:")
    assert found["dead_tensors"] == ["inner.lora_B.weight"]
    assert any("zero throughout" in note for note in found["notes"])


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=64,
        )
    )  # fmt: skip


def test_the_effect_on_a_model_which_is_then_as_it_was(tmp_path: Path) -> None:
    model = llama()
    adapter = ll.attach(model, ll.LoRA(rank=2))
    ll.save(adapter, tmp_path / "fresh")
    give_effect(adapter)
    ll.save(adapter, tmp_path / "trained")
    base = llama().train()
    before = dict(base.named_modules())
    dead, alive = inspect(tmp_path / "fresh", base), inspect(tmp_path / "trained", base)
    assert dead.probe_logit_change == 0.0
    assert any(note.startswith("NO EFFECT") for note in dead.notes)
    assert alive.probe_logit_change is not None
    assert alive.probe_logit_change > 1e-3
    assert dict(base.named_modules()) == before
    assert base.training
    assert not adapters_on(base).adapters


def test_another_adapter_stays_active(tmp_path: Path) -> None:
    model = llama()
    ll.save(ll.attach(model, ll.LoRA(rank=2), name="mine"), tmp_path / "a")
    ll.attach(model, ll.LoRA(rank=1), name="other")
    inspect(tmp_path / "a", model)
    assert adapters_on(model).routing.active == "other"


def test_a_model_of_unknown_inputs_is_refused(tmp_path: Path) -> None:
    model = TOYS["linear"].build()
    ll.save(ll.attach(model, ll.LoRA(rank=2, targets=["inner"])), tmp_path / "a")
    with pytest.raises(ll.SpecError, match="no transformers model"):
        inspect(tmp_path / "a", TOYS["linear"].build())


def test_a_loralib_checkpoint(shared_data: Path) -> None:
    path = shared_data / "adapters" / "microsoft_lora" / "roberta_base_lora_mnli.bin"
    found = inspect(path)
    assert (found.rank, found.alpha, found.tensors, found.delta_norms) == (8, None, 52, None)
    norms = inspect(path, alpha=16).delta_norms
    assert norms is not None
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    name = "roberta.encoder.layer.3.attention.self.value"
    expected = 2 * torch.linalg.matrix_norm(tensors[f"{name}.lora_B"].double() @ tensors[f"{name}.lora_A"].double())
    assert norms[name] == pytest.approx(float(expected), rel=1e-6)


def test_pefts_own_files(shared_data: Path) -> None:
    found = inspect(shared_data / "adapters" / "peft_regression" / "lora_emb_conv1d" / "0.6.1")
    assert (found.targets, found.base_fingerprint) == (["emb", "conv1d"], None)


def test_spoilt_tensors_are_refused(tmp_path: Path) -> None:
    model = TOYS["linear"].build()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["inner"]))
    folder = ll.save(adapter, tmp_path / "a")
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"
    path.write_bytes(content)
    (folder / "loralab.json").unlink()
    with pytest.raises(ll.AdapterFileError, match="NaN or infinite"):
        inspect(folder)


def test_what_the_doctor_finds_is_shown(tmp_path: Path) -> None:
    model = llama()
    model.name_or_path = "a-base"
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["q_proj", "v_proj"]))
    ll.save(adapter, tmp_path / "fresh", model=model)
    give_effect(adapter, std=0.001)
    ll.save(adapter, tmp_path / "trained", model=model)
    ll.detach(model)
    assert inspect(tmp_path / "trained", model).findings == []
    found = inspect(tmp_path / "fresh").to_json()["findings"]
    assert [each["severity"] for each in found] == ["error"]
    assert "the adapter does nothing" in found[0]["what"]
