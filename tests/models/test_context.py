import torch
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaModel, T5Config, T5ForConditionalGeneration

from loralab.models.context import context_length


def test_learned_positions_offset_positions_and_none() -> None:
    with torch.device("meta"):
        gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=64, n_layer=1))
        roberta = RobertaModel(RobertaConfig(max_position_embeddings=514, num_hidden_layers=1))
        t5 = T5ForConditionalGeneration(T5Config(num_layers=1))
    assert [context_length(model) for model in (gpt2, roberta, t5)] == [64, 512, None]


def test_roberta_takes_exactly_that_many_tokens() -> None:
    config = RobertaConfig(
        vocab_size=20,
        max_position_embeddings=12,
        num_hidden_layers=1,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = RobertaModel(config).eval()
    assert model(torch.full((1, context_length(model)), 5)).last_hidden_state.shape == (1, 10, 8)
