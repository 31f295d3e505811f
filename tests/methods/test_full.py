from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

import loralab as ll
from loralab.methods.counts import parameter_counts
from small_models import build, llama, logits
from toys import give_effect


def test_everything_trains_once() -> None:
    model = build("gpt2")
    parameters = sum(p.numel() for p in model.parameters())
    adapter = ll.attach(model, ll.FullFineTune())
    counts = parameter_counts(adapter, model)
    assert (counts.method, counts.head, counts.base) == (parameters, 0, parameters)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True).eval()
    adapter = ll.attach(model, ll.FullFineTune())
    give_effect(adapter)
    updates = adapter.updates
    assert updates["lm_head"].replacements()["weight"] is updates["model.embed_tokens"].replacements()["weight"]
    live = logits(model)
    ll.save(adapter, tmp_path, model=model)
    ll.detach(model)
    updates = ll.load(model, tmp_path).updates
    assert updates["lm_head"].replacements()["weight"] is updates["model.embed_tokens"].replacements()["weight"]
    assert torch.equal(logits(model), live)


def test_it_learns_what_plain_training_learns() -> None:
    """Three steps on the attached copy are three steps on the model itself."""

    def trained(attached: bool) -> torch.Tensor:
        model = llama(tie_word_embeddings=True).train()
        parameters = list((ll.attach(model, ll.FullFineTune()) if attached else model).parameters())
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
        for _ in range(3):
            optimizer.zero_grad()
            logits(model).square().mean().backward()
            optimizer.step()
        return logits(model).detach()

    torch.manual_seed(0)
    one = trained(attached=True)
    torch.manual_seed(0)
    torch.testing.assert_close(one, trained(attached=False), rtol=1e-4, atol=1e-5)


def test_a_weight_that_the_parent_reads_trains_too() -> None:
    """DeBERTa's encoder reads its table of relative positions without calling the module."""
    model = build("deberta")
    adapter = ll.attach(model, ll.FullFineTune())
    before = logits(model)
    with torch.no_grad():
        adapter.updates["deberta.encoder.rel_embeddings"].replacements()["weight"].add_(1.0)
    assert not torch.equal(logits(model), before)


def test_the_top_blocks() -> None:
    model = build("bert")
    adapter = ll.attach(model, ll.FullFineTune(top_layers=2))
    blocks = {path.split(".")[3] for path in adapter.matched}
    assert blocks == {"1", "2"}
    block = sum(p.numel() for p in build("bert").bert.encoder.layer[0].parameters())
    assert parameter_counts(adapter, model).method == 2 * block
    with pytest.raises(ll.SpecError, match="only 3 blocks"):
        ll.attach(build("bert"), ll.FullFineTune(top_layers=4))


def test_of_an_encoder_decoder_the_decoders_top_trains() -> None:
    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=32)
    adapter = ll.attach(T5ForConditionalGeneration(config), ll.FullFineTune(top_layers=1))
    assert all(path.startswith("decoder.block.1.") for path in adapter.matched)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ll.TargetError, match="bare Linear"):
        ll.attach(nn.Linear(2, 2), ll.FullFineTune())
    with pytest.raises(ll.TargetError, match="not known"):
        ll.attach(nn.Sequential(nn.Linear(2, 2)), ll.FullFineTune(top_layers=1))
    with pytest.raises(ll.SpecError, match="at least 1"):
        ll.FullFineTune(top_layers=0)
