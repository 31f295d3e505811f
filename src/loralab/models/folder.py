"""A changed model written as a Hugging Face folder, in the dtype of the files it came from, reopened and compared."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.errors import NumericsError
from loralab.models.load import LoadedModel, load_model, read_config
from loralab.models.quiet import quiet_transformers

PROBE_TOKENS = 24


def file_dtype(name: str) -> str:
    """The dtype that the model's config says its files have; float32 where it says none."""
    dtype = read_config(name).dtype
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


def write_proved(loaded: LoadedModel, folder: Path) -> None:
    """Fill an empty folder with the model as it is now and its tokenizer; then reopen it.

    Raises NumericsError unless the reopened model's logits are the live one's, bit for bit.
    """
    with quiet_transformers():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    reopened = load_model(str(folder), dtype=str(loaded.dtype).removeprefix("torch."), device=str(loaded.model.device))
    live, again = probe_logits(loaded.model), probe_logits(reopened.model)
    if not torch.equal(live, again):
        raise NumericsError(
            "the written model was reopened and is another: logits differ by up to "
            f"{float((live - again).abs().max()):.3g}; its blocks depend on more "
            "than config.json says. Nothing was written"
        )


@torch.no_grad()
def probe_logits(model: PreTrainedModel) -> Tensor:
    """The logits of a fixed sequence, without a cache."""
    vocabulary = model.get_input_embeddings().get_parameter("weight").shape[0]
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] * 7919 % vocabulary
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits
