"""A model and its tokenizer as a pair, as one unpacks them in Python; `load.py` says more about a model."""

import logging
from collections.abc import Sequence
from typing import Literal, overload

import torch
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from loralab.models import load

log = logging.getLogger(__name__)

TextKind = Literal["generation", "causal-lm", "seq2seq-lm", "sequence-classification"]


@overload
def load_model(
    name: str,
    *,
    kind: TextKind = ...,
    labels: Sequence[str] | None = ...,
    regression: bool = ...,
    dtype: str | torch.dtype = ...,
    device: str | torch.device = ...,
    seed: int = ...,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]: ...


@overload
def load_model(
    name: str,
    *,
    kind: Literal["image-classification"],
    labels: Sequence[str] | None = ...,
    dtype: str | torch.dtype = ...,
    device: str | torch.device = ...,
    seed: int = ...,
) -> tuple[PreTrainedModel, BaseImageProcessor]: ...


def load_model(
    name: str,
    *,
    kind: TextKind | Literal["image-classification"] = "generation",
    labels: Sequence[str] | None = None,
    regression: bool = False,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | BaseImageProcessor]:
    """A transformers model in evaluation mode on its device, and its tokenizer (for images its processor).

    `name` is an embedded model (`smollm2-135m`, `minilm-l6`), a local folder, or a Hub id; `kind` a language model of
    either sort by default. A classifier has one output for each of `labels`, or one in all for `regression`; a head
    that the checkpoint lacks is initialised from `seed`, and warned about. `dtype` "auto" is bfloat16 where the
    processor multiplies it natively, else float32; `device` "auto" the accelerator where there is one.

    Raises NotFoundError, ModelLoadError, or SpecError for a kind, dtype or device that is none.
    """
    loaded = load.load_model(
        name,
        kind=kind,
        labels=labels,
        regression=regression,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        seed=seed,
    )
    for note in loaded.notes:
        log.info(note)
    if loaded.fresh:
        log.warning("%s: %s is random, to be trained: the checkpoint does not hold it", name, ", ".join(loaded.fresh))
    return loaded.model, loaded.processor
