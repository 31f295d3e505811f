"""The loss at target positions against transformers' own, over model families."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from loralab.core.attach import attach
from loralab.methods.lora import LoRA
from loralab.models.fast.head import loss_route, target_loss_sum
from loralab.nn.targets import IGNORED

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
WIDE = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0}

MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=60)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**WIDE, head_dim=8, final_logit_softcapping=5.0)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**WIDE, logits_scaling=4.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**WIDE, logit_scale=0.25)),
}
TRANSFORMED = {"gemma2": "capped at 5", "granite": "divided by 4", "cohere": "multiplied by 0.25"}


def padded_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Three sequences, two of them padded on the right, with the first tokens no targets."""
    ids = torch.randint(1, 60, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 8:], mask[2, 6:] = 0, 0
    labels = torch.where(mask.bool(), ids, IGNORED)
    labels[:, :4] = IGNORED
    return ids, mask, labels


def transformers_sum(model: PreTrainedModel, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    count = int((labels[:, 1:] != IGNORED).sum())
    loss: Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss * count


@pytest.mark.parametrize("name", MODELS)
def test_loss_is_transformers_own(name: str) -> None:
    model = MODELS[name]().eval()
    ids, mask, labels = padded_batch()
    loss, count = target_loss_sum(model, ids, mask, labels)
    assert count == int((labels[:, 1:] != IGNORED).sum())
    torch.testing.assert_close(loss, transformers_sum(model, ids, mask, labels), rtol=2e-6, atol=1e-5)
    assert loss_route(model, ids).split
    assert loss_route(model, ids).reason.endswith(TRANSFORMED.get(name, "in chunks"))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_transformers_own(name: str) -> None:
    model = MODELS[name]().eval()
    ids, mask, labels = padded_batch()
    target_loss_sum(model, ids, mask, labels)[0].backward()
    ours = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    transformers_sum(model, ids, mask, labels).backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-4, atol=2e-5, msg=key)


def test_adapted_head_trains() -> None:
    model = LlamaForCausalLM(LlamaConfig(**WIDE)).eval()
    adapter = attach(model, LoRA(rank=2, targets=["q_proj", "lm_head"]))
    ids, mask, labels = padded_batch()
    target_loss_sum(model, ids, mask, labels)[0].backward()
    head = {name: p.grad for name, p in adapter.named_parameters() if name.startswith("lm_head")}
    ours = {name: grad.clone() for name, grad in head.items() if grad is not None}
    for parameter in adapter.parameters():
        parameter.grad = None
    transformers_sum(model, ids, mask, labels).backward()
    for name, parameter in adapter.named_parameters():
        if name in head:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert any(grad.any() for grad in ours.values())


def test_left_padding_keeps_its_mask() -> None:
    model = MODELS["llama"]().eval()
    ids, mask, _ = padded_batch()
    ids, mask = ids.flip(1), mask.flip(1)
    labels = torch.where(mask.bool(), ids, IGNORED)
    loss, _ = target_loss_sum(model, ids, mask, labels)
    torch.testing.assert_close(loss, transformers_sum(model, ids, mask, labels), rtol=2e-6, atol=1e-5)


def test_probe_leaves_modes_and_random_state_alone() -> None:
    model = MODELS["gpt2"]().train()
    model.transformer.h[0].eval()
    ids = torch.randint(1, 60, (2, 9))
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    loss_route(model, ids)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def encoder_decoders() -> dict[str, PreTrainedModel]:
    sizes = {"d_model": 32, "vocab_size": 60, "decoder_start_token_id": 0}
    t5 = T5Config(d_kv=8, d_ff=48, num_layers=2, num_heads=4, **sizes)
    halves = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in BART.items()}
    bart = BartConfig(**sizes, **halves, pad_token_id=1, bos_token_id=2, eos_token_id=3, forced_eos_token_id=3)
    biased = BartForConditionalGeneration(bart)
    biased.final_logits_bias.normal_()
    return {"T5": T5ForConditionalGeneration(t5), "BART": BartForConditionalGeneration(bart), "BART, biased": biased}


BART = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}


@pytest.mark.parametrize("name", ["T5", "BART", "BART, biased"])
def test_an_encoder_decoders_loss_is_transformers_own(name: str) -> None:
    """BART adds a constant to its logits, which is usually zero; where it is not, its own logits are used."""
    model = encoder_decoders()[name].eval()
    ids, mask, labels = padded_batch()
    loss, count = target_loss_sum(model, ids, mask, labels)
    found = torch.autograd.grad(loss, first := next(model.parameters()))
    own = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(loss, own * count)
    torch.testing.assert_close(found, torch.autograd.grad(own * count, first), rtol=1e-5, atol=1e-5)
    assert loss_route(model, ids, labels).split == (name != "BART, biased")
    assert "forward" not in vars(model.get_output_embeddings())


def test_an_encoder_decoders_targets_are_weighted_and_smoothed() -> None:
    model = encoder_decoders()["T5"].eval()
    ids, mask, labels = padded_batch()
    weights_B = torch.arange(1.0, 1 + len(ids))
    loss, _ = target_loss_sum(model, ids, mask, labels, label_smoothing=0.2, weights=weights_B)
    logits = model(input_ids=ids, attention_mask=mask, labels=labels).logits
    losses_BT = F.cross_entropy(logits.mT, labels, reduction="none", label_smoothing=0.2, ignore_index=IGNORED)
    torch.testing.assert_close(loss, (losses_BT.sum(1) @ weights_B))


def test_label_smoothing_reaches_both_routes() -> None:
    ids, mask, labels = padded_batch()
    for name in ("llama", "granite", "gemma2"):
        model = MODELS[name]().eval()
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        wanted = labels[:, 1:] != IGNORED
        expected = torch.nn.functional.cross_entropy(
            logits[wanted], labels[:, 1:][wanted], reduction="sum", label_smoothing=0.2
        )
        loss, _ = target_loss_sum(model, ids, mask, labels, label_smoothing=0.2)
        torch.testing.assert_close(loss, expected, rtol=2e-6, atol=1e-5)
