import pytest
import torch
from torch import nn

import loralab as ll
from loralab.methods.counts import parameter_counts
from small_models import build


@pytest.mark.parametrize("name", ["gpt2", "bert", "roberta", "deberta"])
def test_exactly_the_biases_train(name: str) -> None:
    model = build(name)
    named = dict(model.named_parameters())
    adapter = ll.attach(model, ll.BitFit())
    biases = {path: p for path, p in named.items() if path.endswith("bias") and not adapter.in_head(path)}
    trained = {name for name, _ in adapter.named_parameters() if not adapter.in_head(name)}
    assert trained == set(biases)
    assert parameter_counts(adapter, model).method == sum(p.numel() for p in biases.values())


def test_biases_of_an_attention_are_found() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16))
    names = {name for name, _ in ll.attach(model, ll.BitFit()).named_parameters()}
    assert {"0.self_attn.in_proj_bias", "0.self_attn.out_proj.bias", "0.norm1.bias"} <= names
    assert sum("bias" in name for name, _ in model.named_parameters() if "updates" not in name) == len(names)


def test_a_model_without_biases_is_refused() -> None:
    with pytest.raises(ll.TargetError, match="has none"):
        ll.attach(build("llama"), ll.BitFit())


def test_the_count_of_roberta_base() -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    with torch.device("meta"):
        model = RobertaForSequenceClassification(RobertaConfig(vocab_size=50265, max_position_embeddings=514))
    assert parameter_counts(ll.attach(model, ll.BitFit()), model).method == 102_144
