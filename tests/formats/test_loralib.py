"""Checkpoints of the paper's own library: a fused projection, an embedding, heads, and the authors' own file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification

import loralab as ll


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_embd=12, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    ).eval()


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


C_ATTN = "transformer.h.0.attn.c_attn"


def test_a_merged_linear_is_q_and_v(tmp_path: Path) -> None:
    """loralib's own product: a grouped 1×1 convolution, padded with zeros where a part is not enabled."""
    A, B = torch.randn(4, 12), torch.randn(24, 2)
    model = gpt2()
    before = model.transformer.h[0].attn.c_attn.weight.detach().clone()
    path = written(tmp_path / "x.safetensors", {f"{C_ATTN}.lora_A": A, f"{C_ATTN}.lora_B": B})
    adapter = ll.load(model, path, alpha=6)
    assert adapter.notes[0] == f"{C_ATTN}: the file has 2 of its parts, taken to be q, v"
    assert adapter.spec.targets == [f"{C_ATTN}[q,v]"]
    ll.merge(model)
    product = nn.functional.conv1d(A[None], B[..., None], groups=2)[0]
    expected = torch.zeros(36, 12)
    expected[:12], expected[24:] = product[:12], product[12:]
    moved = model.transformer.h[0].attn.c_attn.weight - before
    torch.testing.assert_close(moved, 3 * expected.T, atol=1e-5, rtol=1e-5)


def test_whole_layers_embeddings_and_biases(tmp_path: Path) -> None:
    model = gpt2()
    tensors = {
        "transformer.wte.lora_A": torch.randn(3, 32),
        "transformer.wte.lora_B": torch.randn(12, 3),
        f"{C_ATTN}.lora_A": torch.randn(2, 12),
        f"{C_ATTN}.lora_B": torch.randn(36, 2),
        f"{C_ATTN}.bias": torch.randn(36),
    }
    adapter = ll.load(model, written(tmp_path / "x.safetensors", tensors), alpha=2)
    assert adapter.matched == ["transformer.wte", C_ATTN]
    assert torch.equal(adapter.state_dict()[f"{C_ATTN}.bias"], tensors[f"{C_ATTN}.bias"])
    assert (adapter.spec.rank_pattern, adapter.spec.bias) == ({C_ATTN: 2}, "lora_only")


A_PAIR = {f"{C_ATTN}.lora_A": torch.ones(4, 12), f"{C_ATTN}.lora_B": torch.ones(24, 2)}
FAULTS: dict[str, tuple[dict[str, Tensor], str]] = {
    "no B": ({f"{C_ATTN}.lora_A": torch.ones(2, 12)}, r"c_attn\.lora_B is missing"),
    "no factors": ({"x.weight": torch.ones(1)}, "no names ending in lora_A"),
    "PEFT's": ({"base_model.model.x.lora_A.weight": torch.ones(1)}, "it is PEFT's file; load the folder"),
    "another module": ({"x.lora_A": torch.ones(1, 1), "x.lora_B": torch.ones(1, 1)}, "x.lora_A belongs to no module"),
    "one third": (A_PAIR | {f"{C_ATTN}.lora_B": torch.ones(12, 4)}, "fits neither it nor two or three thirds"),
    "NaN": (A_PAIR | {f"{C_ATTN}.lora_A": torch.full((4, 12), torch.nan)}, r"NaN or infinite values: .*c_attn\.lora_A"),
    "an unknown tensor": (A_PAIR | {"classifier.weight": torch.ones(1)}, "classifier.weight belongs to nothing"),
    "a head of another size": (A_PAIR | {"lm_head.weight": torch.ones(3, 12)}, r"lm_head.weight has shape \[3, 12\]"),
    "a weight beside its update": (A_PAIR | {f"{C_ATTN}.weight": torch.ones(12, 36)}, "beside its own low-rank update"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named_and_nothing_attached(tmp_path: Path, fault: str) -> None:
    tensors, match = FAULTS[fault]
    model = gpt2()
    with pytest.raises(ll.AdapterFileError, match=match):
        ll.load(model, written(tmp_path / "x.safetensors", tensors), alpha=2)
    assert model.get_submodule(C_ATTN).__class__.__name__ == "Conv1D"


def test_alpha_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ll.SpecError, match="does not record alpha; pass the alpha"):
        ll.load(gpt2(), written(tmp_path / "x.safetensors", A_PAIR))


def test_the_authors_own_checkpoint(shared_data: Path) -> None:
    model = RobertaForSequenceClassification(RobertaConfig(vocab_size=50, num_labels=3, max_position_embeddings=40))
    adapter = ll.load(model, shared_data / "adapters" / "microsoft_lora" / "roberta_base_lora_mnli.bin", alpha=16)
    assert len(adapter.matched) == 24
    assert sum(name.endswith(("lora_A", "lora_B")) for name, _ in adapter.named_parameters()) == 48
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 887_811
    assert {update.factors_of("weight").recipe.scale for update in adapter.updates.values() if len(update.parts)} == {
        2.0
    }


def test_the_authors_own_checkpoint_with_other_classes(shared_data: Path) -> None:
    config = RobertaConfig(vocab_size=50, num_labels=2, max_position_embeddings=40)
    with pytest.raises(ll.AdapterFileError, match=r"out_proj\.bias has shape \[3\], not \[2\]"):
        ll.load(
            RobertaForSequenceClassification(config),
            shared_data / "adapters" / "microsoft_lora" / "roberta_base_lora_mnli.bin",
            alpha=16,
        )
