import pytest
import torch
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from loralab.errors import NumericsError
from loralab.evaluation.likelihood import mean_target_loss
from loralab.tasks.encoding.encoded import Encoded

CAUSAL = [
    Encoded([3, 4, 5, 6, 7], [-100, -100, 5, 6, 7]),
    Encoded([3, 9], [-100, 9]),
    Encoded([8, 4, 2], [-100, 4, -100]),
]


def llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    ).eval()


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_target_token_has_the_same_weight(build, batch_size: int) -> None:
    model = build()
    losses = []
    for each in CAUSAL:
        logits = model(torch.tensor([each.input_ids])).logits[0, :-1].detach()
        losses.append(F.cross_entropy(logits, torch.tensor(each.labels[1:]), reduction="none"))
    expected = sum(float(loss.sum()) for loss in losses) / 5
    assert mean_target_loss(model, CAUSAL, 0, batch_size) == pytest.approx(expected, rel=1e-5)


def test_an_encoder_decoder() -> None:
    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    encoded = [Encoded([3, 4, 1], [5, 1], decoded=True), Encoded([3, 1], [6, 7, 8, 1], decoded=True)]
    with torch.no_grad():
        parts = [model(input_ids=torch.tensor([e.input_ids]), labels=torch.tensor([e.labels])).loss for e in encoded]
    expected = (2 * float(parts[0]) + 4 * float(parts[1])) / 6
    assert mean_target_loss(model, encoded, 0, 2) == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_no_number() -> None:
    model = llama()
    model.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="the loss is nan"):
        mean_target_loss(model, CAUSAL, 0, 2)
