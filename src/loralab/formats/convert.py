"""From one form of adapter file to another, without a model: PEFT folders, loralib checkpoints, GGUF for llama.cpp."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from loralab.core.updates.factors import Recipe, usual_and_others
from loralab.errors import (
    AdapterFileError,
    FingerprintError,
    ModelLoadError,
    NotFoundError,
    OutputError,
    SpecError,
    listed,
    some,
)
from loralab.extras import require
from loralab.files.tensors import SAFETENSORS, write_tensors
from loralab.files.whole import may_replace, whole_file, whole_folder
from loralab.formats.gguf import GgufBase, write_gguf
from loralab.formats.loralib import ALPHA_KEY, loralib_pair, spread
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.keys import EMBEDDING_A, EMBEDDING_B, PREFIX, A, B, plain_path, targets_without
from loralab.formats.read import read_adapter, read_plain
from loralab.formats.save import write_folder
from loralab.formats.stored import StoredAdapter
from loralab.models.load import read_config

FORMATS = ("peft", "loralib", "gguf")
GGUF = ".gguf"
Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""A and B by the name of their module."""
_EMBEDDINGS = ("embed_tokens", "embeddings", "embedding", "emb", "wte", "wpe", "word_embeddings", "shared")
"""Last names of modules that are taken for embeddings: a loralib checkpoint does not tell them from linear layers."""


@dataclass(frozen=True)
class Conversion:
    """What was written: where, how many tensors, and whether nothing was lost or rounded."""

    dst: str
    tensors: int
    lossless: bool
    max_relative_error: float | None = None
    """Of GGUF: the largest ‖ΔW read back − ΔW‖ / ‖ΔW‖."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the notes are for people, and what was not measured is left out."""
        return {key: each for key, each in asdict(self).items() if key != "notes" and each is not None}


def convert(
    src: str | Path, dst: str | Path, to: str = "peft", alpha: float | None = None, model: str | None = None
) -> Conversion:
    """Write the adapter at `src` to `dst`: a PEFT folder, a checkpoint with loralib's names, or a LoRA in GGUF.

    A loralib checkpoint does not record its alpha, which must be given then. GGUF needs the configuration of the
    base, which is the one that the adapter records unless `model` names it. Raises AdapterFileError for what the
    other format has no place for, SpecError for a missing alpha or base, FingerprintError for another type of base,
    OutputError if there is something at `dst`.
    """
    source, target = Path(src), Path(dst)
    if to not in FORMATS:
        raise SpecError(f"{to!r} is not a known format; choose one of {', '.join(FORMATS)}")
    if model is not None and to != "gguf":
        raise SpecError(f"a model ({model}) was given for a conversion to {to}, which needs none; leave it out")
    stored = read_plain(source, alpha)
    if stored.is_checkpoint:
        return _convert_checkpoint(stored, target, to, model)
    if to == "gguf":
        return _folder_to_gguf(stored, target, model)
    return _copy_folder(stored, target) if to == "peft" else _folder_to_loralib(stored, target)


def _convert_checkpoint(stored: StoredAdapter, target: Path, to: str, model: str | None) -> Conversion:
    alpha, pairs = stored.demand().alpha, {each.name: (each.A, each.B) for each in stored.updates}
    if alpha is None:
        raise SpecError(f"{stored.source} is a loralib checkpoint, which does not record alpha; give it, as --alpha 16")
    if to == "loralib":
        return _write_loralib(target, pairs, stored.others, alpha, lossless=True)
    if to == "gguf":
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / stored.source.stem
            _pairs_to_folder(pairs, stored.others, alpha, folder)
            return _folder_to_gguf(read_adapter(folder), target, model)
    return _pairs_to_folder(pairs, stored.others, alpha, target)


# -- to a PEFT folder -----------------------------------------------------------------------------------------


def _copy_folder(stored: StoredAdapter, target: Path) -> Conversion:
    _refuse_own(stored, "peft")
    written = _new_folder(target, stored.demand().content, stored.tensors, stored)
    return replace(written, notes=(*stored.said, *_idle_targets(stored)))


def _idle_targets(stored: StoredAdapter) -> Iterator[str]:
    """PEFT accepts names that the model does not have; one that it does have would have tensors here."""
    idle = [] if stored.config is None else targets_without(stored.config, [each.module for each in stored.entries])
    if idle:
        yield f"target_modules names {some(idle)}, of which the file has nothing: of the base they should not be"


def _refuse_own(stored: StoredAdapter, to: str) -> None:
    """An adapter that PEFT's layout has no place for stays in ours, which says why."""
    if stored.is_own:
        raise AdapterFileError(
            f"{stored.source} cannot be converted to {to}, which has no place for it ({listed(stored.why_not_peft)}); "
            "copy the folder to keep it as it is, or merge it into its base if it changes weights only"
        )


def _refuse_more_than_pairs(stored: StoredAdapter, to: str) -> None:
    """A format of pairs A, B alone has no place for what is more, or acts only from certain tokens on."""
    source, config = stored.demand().source, stored.config
    merge = "merge it into its base instead (loralab merge)"
    if config is None:
        raise AdapterFileError(
            f"{source} is VeRA, and {to} has no place for the matrices that its layers share; {merge}"
        )
    if config.magnitude:
        raise AdapterFileError(
            f"{source} is a DoRA adapter, and {to} has no place for the trained lengths of the weights; {merge}"
        )
    if config.tokens:
        raise AdapterFileError(
            f"{source} trains rows of an embedding (trainable_token_indices), and {to} has no place for them; {merge}, "
            "whose vocabulary has the new tokens"
        )
    stored.refuse_without_base(to)
    if config.invocation:
        raise AdapterFileError(
            f"{source} acts only from its invocation tokens on (aLoRA), which {to} does not tell every reader of it; "
            "use it as the PEFT folder that it is"
        )


def _new_folder(
    target: Path, content: Mapping[str, Any], tensors: Mapping[str, Tensor], of: StoredAdapter | None = None
) -> Conversion:
    with whole_folder(target) as folder:
        write_folder(folder, content, tensors, None if of is None else of.sidecar)
    return Conversion(str(target), len(tensors), lossless=True)


def _pairs_to_folder(pairs: Pairs, others: Mapping[str, Tensor], alpha: float, target: Path) -> Conversion:
    tensors: dict[str, Tensor] = {}
    recipes: dict[str, Recipe] = {}
    for path, (A_values, B_values) in pairs.items():
        names = (EMBEDDING_A, EMBEDDING_B) if path.rpartition(".")[2] in _EMBEDDINGS else (A, B)
        count = len(A_values) // B_values.shape[-1]
        B_OR = B_values if count == 1 else spread(path, count, B_values)
        tensors |= dict(zip((f"{PREFIX}{path}.{name}" for name in names), (A_values, B_OR), strict=True))
        recipes[path] = Recipe(len(A_values), alpha * count)
    heads = [path for path in _owners(others) if path not in recipes]
    for name, tensor in others.items():
        path, _, leaf = name.rpartition(".")
        tensors[f"{PREFIX}{path}.{leaf}" if path in heads else f"{PREFIX}{path}.base_layer.{leaf}"] = tensor
    usual, ranks, alphas = usual_and_others({f"^{re.escape(path)}": each for path, each in recipes.items()})
    config = PeftConfig(
        rank=usual.rank,
        alpha=usual.alpha,
        bias="lora_only" if len(heads) < len(_owners(others)) else "none",
        targets=tuple(recipes),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        modules_to_save=tuple(heads),
    )
    return _new_folder(target, config.to_json(), tensors)


def _owners(others: Mapping[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in others))


# -- to loralib -----------------------------------------------------------------------------------------------


def _folder_to_loralib(stored: StoredAdapter, target: Path) -> Conversion:
    _refuse_own(stored, "loralib")
    _refuse_more_than_pairs(stored, "loralib's format")
    foreign = [f"{each.name} ({each.kind})" for each in stored.entries if each.kind not in ("linear", "embedding")]
    if foreign:
        raise AdapterFileError(f"loralib has no place for: {', '.join(foreign)}; keep the PEFT folder")
    copies = stored.base_copies
    entries = {each.name: loralib_pair(each, stored) for each in stored.entries}
    alpha = Counter(alpha for _, _, alpha in entries.values()).most_common(1)[0][0]
    pairs = {name: (A_values, B_values * (own / alpha)) for name, (A_values, B_values, own) in entries.items()}
    others = {plain_path(name): tensor for name, tensor in stored.others.items() if name not in copies}
    return _write_loralib(target, pairs, others, alpha, all(own == alpha for _, _, own in entries.values()))


def _write_loralib(
    target: Path, pairs: Pairs, others: Mapping[str, Tensor], alpha: float, lossless: bool
) -> Conversion:
    _check_target(target, SAFETENSORS, "loralib's names are")
    tensors = dict(others)
    for path, (A_values, B_values) in pairs.items():
        tensors |= {f"{path}.lora_A": A_values, f"{path}.lora_B": B_values}
    with whole_file(target) as temporary:
        write_tensors(temporary, tensors, {ALPHA_KEY: repr(alpha)})
    return Conversion(str(target), len(tensors), lossless)


def _check_target(target: Path, suffix: str, what: str) -> None:
    if target.suffix != suffix:
        raise SpecError(f"{target} does not end in {suffix}; {what} written to a file called *{suffix}")
    if target.exists() and not may_replace(target):
        raise OutputError(f"{target} exists already; name another file or remove it")


# -- to GGUF --------------------------------------------------------------------------------------------------


def _folder_to_gguf(stored: StoredAdapter, target: Path, model: str | None) -> Conversion:
    require("gguf", "a conversion to GGUF")
    _check_target(target, GGUF, "a LoRA in GGUF is")
    _refuse_own(stored, "gguf")
    _refuse_more_than_pairs(stored, "GGUF")
    written = write_gguf(stored, _gguf_base(stored, model), target)
    return Conversion(str(target), written.tensors, written.lossless, written.max_relative_error, written.notes)


def _gguf_base(stored: StoredAdapter, model: str | None) -> GgufBase:
    source, name = stored.source, model or stored.content.get("base_model_name_or_path")
    if not name:
        raise SpecError(f"GGUF needs the configuration of the base of {source}, which does not record it; give --model")
    try:
        config = read_config(name)
    except (NotFoundError, ModelLoadError) as problem:
        if model is not None:
            raise
        raise SpecError(
            f"GGUF needs the configuration of the base of {source}, which is recorded as {name!r}: {problem}; "
            "give its place with --model (a folder with a config.json suffices)"
        ) from problem
    recorded = None if stored.sidecar is None else stored.sidecar.fingerprint.model_type
    if recorded not in (None, config.model_type):
        raise FingerprintError(
            f"{source} was trained on a model of type {recorded!r}, but {name} is {config.model_type!r}"
        )
    return GgufBase.of(name, config)
