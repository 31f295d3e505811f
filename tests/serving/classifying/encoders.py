"""Small encoders of several families, and decoders that classify, on disk with classifiers' adapters beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

import loralab as ll
from loralab.models.load import LoadedModel, load_model
from tiny import SMALL, byte_tokenizer
from toys import give_effect

COMMON = {**SMALL, "vocab_size": 258, "pad_token_id": 0, "max_position_embeddings": 256}
ENCODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig(**COMMON)),
    "roberta": lambda: RobertaModel(RobertaConfig(**COMMON, type_vocab_size=1)),
    "deberta": lambda: DebertaV2Model(
        DebertaV2Config(**COMMON, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8)
    ),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=258, max_position_embeddings=256)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON, bos_token_id=None, eos_token_id=1)),
}
TEXTS = ("good", "a text that is quite a bit longer than the others are", "bad film", "x")


def write_encoder(kind: str, root: Path, **classes: Sequence[str]) -> Path:
    """A base without a head, and for each name an adapter with a head of these classes."""
    torch.manual_seed(0)
    ENCODERS[kind]().save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    for seed, (name, labels) in enumerate(classes.items()):
        loaded = opened(root, labels)
        torch.manual_seed(seed)
        adapter = ll.attach(loaded.model, ll.LoRA(rank=2 + seed), name=name)
        give_effect(adapter, std=0.3)
        ll.save(adapter, root / "adapters" / name, model=loaded.model)
    return root


def opened(root: Path, labels: Sequence[str] | None = None) -> LoadedModel:
    """The base as a classifier."""
    return load_model(str(root / "base"), kind="sequence-classification", labels=labels, dtype="float32")
