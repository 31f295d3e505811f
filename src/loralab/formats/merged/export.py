"""The model with its active adapter merged, written as a Hugging Face folder, from Python and in one call.

`folder.py` writes and proves; here it is found out which adapter, and where the base's files are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.core.adapter import AdapterSet, adapters_of
from loralab.core.layer import in_words
from loralab.core.merge import originals_in_place
from loralab.core.names import unwrapped
from loralab.errors import AdapterStateError, LoralabError, SpecError
from loralab.files.shards import TensorFolder
from loralab.formats.merged.folder import MergedFolder, source_folder, write_merged
from loralab.models.nf4 import quantized_layers


def export_merged(
    model: nn.Module,
    path: str | Path,
    name: str | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    verify: str = "logits",
) -> MergedFolder:
    """Write a transformers model with its adapter `name` (the active one by default) merged into a new folder, as
    `loralab merge` does: reopened and compared before it appears. The model is left as it was, bit for bit.

    Where the model's own files are known (`model.name_or_path`) they are merged into, tensor by tensor in their own
    dtypes, and its tokenizer is copied; else the live weights are written. `tokenizer` is written instead of the
    model's. `verify="tensors"` leaves out the comparison of logits, which needs the model's memory once more.

    Raises SpecError for what is not a transformers model, AdapterStateError where no adapter or several speak and for
    a quantised base, OutputError for a folder that holds something, NumericsError where the verification fails.
    """
    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel):
        raise SpecError(
            f"a {type(inner).__name__} is not a transformers model and has no Hugging Face folder; call "
            "loralab.merge(model) and save model.state_dict(), which then has the plain model's names"
        )
    _refuse_quantized(inner)
    adapters = adapters_of(inner)
    chosen = _chosen(adapters, name)
    source = _own_files(inner)
    with _unmerged(inner, adapters):
        return write_merged(
            inner, chosen, path, source=source, tokenizer=tokenizer, own_tokenizer=tokenizer is not None, verify=verify
        )


def _refuse_quantized(model: PreTrainedModel) -> None:
    if any(True for _ in quantized_layers(model)):
        raise AdapterStateError(
            f"this {type(model).__name__} is quantised to nf4, which cannot hold a merge, and its files would not be "
            "a model's; load the base without quantising it, load the adapter onto that, and export there"
        )


def _chosen(adapters: AdapterSet, name: str | None) -> str:
    """The one adapter to write."""
    if name is not None:
        return adapters.adapter(name).name
    speaking = adapters.routing.merged or adapters.routing.active
    if isinstance(speaking, str):
        return speaking
    found = "no adapter is active" if speaking is None else f"{in_words(speaking)} speak together"
    how = "activate or name one" if speaking is None else "make them one with loralab.combine, or name one"
    raise AdapterStateError(f"export_merged writes one adapter, and {found}; {how}")


def _own_files(model: PreTrainedModel) -> Path | None:
    """The folder with the safetensors that the model was loaded from; None where it is not known or not here."""
    if not model.name_or_path:
        return None
    try:
        folder = source_folder(model.name_or_path)
        return folder if TensorFolder(folder).kinds else None
    except (LoralabError, OSError):
        return None


@contextmanager
def _unmerged(model: PreTrainedModel, adapters: AdapterSet) -> Iterator[None]:
    """Within this block a merged model holds its original tensors and its adapter is live."""
    before = adapters.routing.active, adapters.routing.rows, adapters.routing.merged
    with originals_in_place(model):
        adapters.route(*before[:2])
        try:
            yield
        finally:
            adapters.route(*before)
