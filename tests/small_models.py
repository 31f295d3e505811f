"""Random models of the families that the paper adapts, each with inputs of two lengths, and every method for them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import loralab as ll

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}
CLASSIFIER = {**SIZES, "max_position_embeddings": 64, "num_labels": 2}
NO_ENDS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}


def llama(**changes: object) -> LlamaForCausalLM:
    settings = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64, **NO_ENDS}
    return LlamaForCausalLM(LlamaConfig(**settings | changes))


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=64, **NO_ENDS))


def bert() -> nn.Module:
    return BertForSequenceClassification(BertConfig(**CLASSIFIER))


def roberta() -> nn.Module:
    return RobertaForSequenceClassification(RobertaConfig(**CLASSIFIER))


def deberta() -> nn.Module:
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1}
    config = DebertaV2Config(**CLASSIFIER, **relative, position_biased_input=False)
    return DebertaV2ForSequenceClassification(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": llama,
    "gpt2": gpt2,
    "bert": bert,
    "roberta": roberta,
    "deberta": deberta,
}
SPECS: dict[str, object] = {
    "lora": ll.LoRA(rank=2),
    "full": ll.FullFineTune(),
    "top2": ll.FullFineTune(top_layers=2),
    "bitfit": ll.BitFit(),
    "prefix-embed": ll.PrefixEmbedding(prefix=3, infix=2),
    "prefix-layer": ll.PrefixLayer(prefix=3, infix=2),
    "adapter-h": ll.BottleneckAdapter("houlsby", size=4),
    "adapter-l": ll.BottleneckAdapter("lin", size=4),
    "adapter-p": ll.BottleneckAdapter("pfeiffer", size=4),
    "lora+prefix-embed": [ll.LoRA(rank=2), ll.PrefixEmbedding(prefix=3, infix=2)],
    "lora+prefix-layer": [ll.LoRA(rank=2), ll.PrefixLayer(prefix=3, infix=2)],
}
PAIRS = [(model, spec) for model in MODELS for spec in SPECS if (model, spec) != ("llama", "bitfit")]
"""Every method on every family; a Llama has no biases for BitFit."""


def build(name: str) -> nn.Module:
    """The model of this name, the same in every call, in evaluation mode."""
    torch.manual_seed(0)
    return MODELS[name]().eval()


def logits(model: nn.Module) -> Tensor:
    """The logits of two sequences of different lengths, padded on the right."""
    ids = torch.arange(3, 23).view(2, 10)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return model(input_ids=ids, attention_mask=mask).logits
