"""The tokenizer of single bytes and a random model of it, as fixtures."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tiny import byte_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def llama(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=1, pad_token_id=0, **SIZES)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model
