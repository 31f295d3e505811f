"""The tokenizer and chat template that lie beside an adapter: those of its run, which a model must be asked with.

Trainers save them there. They are taken where they give the base's tokens the base's ids; tokens that were added need
rows in the embeddings, which the adapter must hold. Everything else is refused. It knows nothing of what is generated.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.core.names import modules_by_path
from loralab.errors import AdapterFileError, some
from loralab.files.names import CONFIG_NAME
from loralab.files.tensors import SAFETENSORS, read_tensors
from loralab.files.whole import read_json
from loralab.formats.read import tensors_path
from loralab.models.load import LoadedModel, load_tokenizer
from loralab.models.processor_names import SETTINGS, TEMPLATE, VOCABULARIES
from loralab.models.quiet import quiet_transformers

SHARE_OF_SAME = 0.5
"""A tokenizer that gives fewer of the base's tokens their ids is another one."""


@dataclass(frozen=True)
class _Difference:
    """How a folder's tokenizer differs from the base's."""

    moved: Sequence[str]
    """Tokens of both that have other ids."""
    added: Mapping[str, int]
    """Tokens at ids that the base's tokenizer does not have."""
    same: float
    """Share of the base's tokens that have the same id here."""

    @classmethod
    def of(cls, own: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase) -> "_Difference":
        ours, theirs = own.get_vocab(), base.get_vocab()
        known = set(theirs.values())
        return cls(
            sorted(token for token, place in ours.items() if theirs.get(token, place) != place),
            {token: place for token, place in sorted(ours.items(), key=lambda each: each[1]) if place not in known},
            sum(ours.get(token) == place for token, place in theirs.items()) / len(theirs),
        )


def with_own_tokenizer(loaded: LoadedModel, adapter: str | Path) -> LoadedModel:
    """The model with the tokenizer that lies in the adapter's folder, if one does, and as many embeddings as the
    adapter holds; what was taken is said in its notes, in place of those before. The model as it was where the two are
    the same. To be called before the adapter is loaded.

    Raises `AdapterFileError` where that tokenizer is not the base's with tokens added, or where the adapter holds no
    embeddings for these, and `ModelLoadError` for a tokenizer that cannot be read.
    """
    folder = Path(adapter)
    if not folder.is_dir() or not isinstance(loaded.processor, PreTrainedTokenizerBase):
        return loaded
    if not any((folder / name).is_file() for name in VOCABULARIES):
        return _with_template(loaded, folder)
    base = loaded.tokenizer
    own, notes = load_tokenizer(str(folder), loaded.model.config)
    difference = _Difference.of(own, base)
    _check_same(folder, own, base, difference)
    resized = _fit_embeddings(loaded.model, folder, own, difference)
    how = _how_it_differs(own, base, difference)
    if not how:
        return replace(loaded, notes=tuple(resized)) if resized else loaded
    said = f"the tokenizer in {folder} is used: {how}"
    return replace(loaded, processor=own, notes=(said, *notes, *resized), own_tokenizer=True)


def tokenizer_beside(
    folder: Path, base: PreTrainedTokenizerBase, model: PreTrainedModel
) -> PreTrainedTokenizerBase | None:
    """The tokenizer, or the base's with the chat template, that lies in an adapter's folder; None where the base's own
    reads all as it does. For a model that others use too: it stays as it is.

    Raises `AdapterFileError` where it gives other ids to the base's tokens, or has tokens that the model does not
    embed, and `ModelLoadError` where it cannot be read.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        template = _template_in(folder)
        if template is None or template == base.chat_template:
            return None
        own = copy.deepcopy(base)
        own.chat_template = template
        return own
    own, _ = load_tokenizer(str(folder), model.config)
    difference = _Difference.of(own, base)
    _check_same(folder, own, base, difference)
    rows = int(model.get_input_embeddings().get_parameter("weight").shape[0])
    beyond = [token for token, place in difference.added.items() if place >= rows]
    if beyond:
        raise AdapterFileError(
            f"the tokenizer in {folder} has tokens that the model does not embed ({some(map(repr, beyond), 5)}): merge "
            "the adapter into its base, and use that"
        )
    return own if _how_it_differs(own, base, difference) else None


def _template_in(folder: Path) -> str | None:
    """The chat template of a folder."""
    file, settings = folder / TEMPLATE, folder / SETTINGS
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    return template if isinstance(template, str) else None


def _with_template(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """For a folder with a chat template and no vocabulary."""
    template = _template_in(folder)
    if template is None or template == loaded.tokenizer.chat_template:
        return loaded
    loaded.tokenizer.chat_template = template
    return replace(loaded, notes=(f"the chat template in {folder} is used, not the model's",), own_tokenizer=True)


def _check_same(
    folder: Path, own: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase, difference: _Difference
) -> None:
    if difference.moved or difference.same < SHARE_OF_SAME:
        how = (
            f"gives other ids to {len(difference.moved)} of its tokens ({some(map(repr, difference.moved), 5)})"
            if difference.moved
            else f"shares only {difference.same:.0%} of its tokens"
        )
        raise AdapterFileError(
            f"the tokenizer in {folder} ({len(own)} tokens) is not the model's ({len(base)}) with tokens added: it "
            f"{how}. Give the model that the adapter was trained on, or take the tokenizer's files out of the folder "
            "to read texts with the model's own"
        )


def _how_it_differs(own: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase, difference: _Difference) -> str:
    ours, theirs = own.get_vocab(), base.get_vocab()
    differences = (
        [f"{len(difference.added)} tokens are added ({some(map(repr, difference.added), 5)})"]
        if difference.added
        else []
    )
    places = set(ours.values())
    missing = sorted(theirs.keys() - ours.keys(), key=theirs.__getitem__)
    lost = [token for token in missing if theirs[token] not in places]
    if lost:
        differences.append(f"{len(lost)} of the model's tokens are not in it ({some(map(repr, lost), 5)})")
    renamed = [token for token, place in ours.items() if token not in theirs and token not in difference.added]
    if renamed:
        differences.append(f"{len(renamed)} tokens are called otherwise ({some(map(repr, renamed), 5)})")
    if own.chat_template != base.chat_template:
        differences.append("its chat template is another than the model's")
    if own.special_tokens_map != base.special_tokens_map:
        differences.append("its special tokens are others")
    if not differences and _rules(own) != _rules(base):
        differences.append("it parts texts otherwise than the model's")
    return ", ".join(differences)


def _rules(tokenizer: PreTrainedTokenizerBase) -> object:
    """How a tokenizer normalizes, parts, merges and begins texts."""
    if not tokenizer.is_fast:
        return type(tokenizer)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return [content[name] for name in ("normalizer", "pre_tokenizer", "model", "post_processor")]


# -- embeddings -------------------------------------------------------------------------------------------------


def _fit_embeddings(
    model: PreTrainedModel, folder: Path, own: PreTrainedTokenizerBase, difference: _Difference
) -> list[str]:
    """Give the model as many rows as the adapter's own embeddings have, or as its trained tokens need, and say so."""
    rows = int(model.get_input_embeddings().get_parameter("weight").shape[0])
    needed = max(own.get_vocab().values()) + 1
    held = _rows_held(model, folder)
    if held is None and needed > rows and _trains_all(folder, difference, rows):
        held = needed
    if needed > (rows if held is None else held):
        beyond = [token for token, place in difference.added.items() if place >= rows]
        raise AdapterFileError(
            f"the tokenizer in {folder} has {needed} tokens, the model embeds {rows}, and the adapter holds "
            f"{'no embeddings' if held is None else f'{held} of them'}: what {some(map(repr, beyond), 5)} mean is not "
            "known. Save the adapter with its embeddings (PEFT: save_embedding_layers=True, or modules_to_save)"
        )
    if held is None or held == rows:
        return []
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(held, mean_resizing=False)
    return [f"the model embeds {held} tokens instead of {rows}, as the adapter does"]


def _rows_held(model: PreTrainedModel, folder: Path) -> int | None:
    """The rows of the input embeddings that the adapter's file has in full."""
    embeddings = model.get_input_embeddings()
    paths = [path for path, module in modules_by_path(model).items() if module is embeddings]
    name = paths[0].rpartition(".")[2] if paths else ""
    ends = tuple(
        f"{name}.{wrapper}weight"
        for wrapper in ("", "modules_to_save.", "modules_to_save.default.", "base_layer.", "token_adapter.base_layer.")
    )
    shapes = _shapes(tensors_path(folder))
    rows = [shape[0] for key, shape in shapes.items() if name and key.endswith(ends) and len(shape) == 2]
    return max(rows, default=None)


def _trains_all(folder: Path, difference: _Difference, rows: int) -> bool:
    """Whether every token beyond the model's rows is one of those that PEFT trained by their indices."""
    given = read_json(folder / CONFIG_NAME).get("trainable_token_indices")
    lists = list(given.values()) if isinstance(given, Mapping) else [given or []]
    trained = {place for each in lists for place in each}
    return all(place in trained for place in difference.added.values() if place >= rows)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix != SAFETENSORS:
        return {name: tuple(tensor.shape) for name, tensor in read_tensors(file).tensors.items()}
    with safe_open(str(file), framework="pt", device="cpu") as stream:
        return {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
