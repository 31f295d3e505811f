"""The factor pairs of an adapter on disk, whoever wrote it, without any model: what is inspected and analysed.

Tensors stay in the file until they are used: it is mapped into memory, not read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from loralab.core.adapter import SHARED
from loralab.core.updates.factors import Recipe
from loralab.core.updates.magnitude import MAGNITUDE
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError, SpecError
from loralab.files.tensor_checks import is_finite, listed
from loralab.files.tensors import TensorFile, read_tensors
from loralab.formats.delta_pairs import local_keys, shared_matrices, special_pairs, vera_pairs
from loralab.formats.folder import config_content, name_for, tensors_path
from loralab.formats.loralib import ALPHA_KEY, Checkpoint
from loralab.formats.own import own_reasons
from loralab.formats.peft.beside_base import BIAS_OF_B
from loralab.formats.peft.config import OWN_TYPE, parse_config
from loralab.formats.peft.dialects import as_plain_lora
from loralab.formats.peft.reading import plain_names
from loralab.formats.peft.tokens import DELTA, row_count
from loralab.formats.peft.vera_config import is_vera, vera_spec
from loralab.formats.record import ModuleRecord
from loralab.formats.sidecar import Sidecar, read_sidecar
from loralab.formats.updates import FilePair, base_copies, file_pairs
from loralab.methods.table import method_name

NO_SIDECAR = "no loralab.json: the base model that it belongs to is not recorded"


@dataclass(frozen=True)
class AdapterPairs:
    """What is in an adapter's files."""

    source: Path
    name: str
    method: str
    """As the command line calls it."""
    pairs: tuple[FilePair, ...]
    others: Mapping[str, Tensor]
    """Tensors that are no low-rank factors, by key."""
    tensors: int
    """How many there are in the file."""
    sidecar: Sidecar | None
    notes: tuple[str, ...] = ()
    alpha_is_known: bool = True
    """A loralib checkpoint does not record it; scales are then of alpha 1."""


def read_pairs(path: str | Path, alpha: float | None = None) -> AdapterPairs:
    """Read an adapter folder (ours or PEFT's) or a loralib checkpoint, which does not record its `alpha`.

    Raises NotFoundError where nothing is, AdapterFileError for damaged files or NaN, SpecError for an `alpha` that
    the folder itself says.
    """
    source = Path(path)
    if source.is_dir() and alpha is not None:
        raise SpecError(f"alpha {alpha:g} was given for {source}, whose adapter_config.json says its own; leave it out")
    return _folder(source) if source.is_dir() else _loralib(source, alpha)


def _folder(folder: Path) -> AdapterPairs:
    content, file, sidecar = config_content(folder), read_tensors(tensors_path(folder)), read_sidecar(folder)
    _refuse_damaged(folder, file, sidecar)
    if content.get("peft_type") == OWN_TYPE:
        return _own(folder, file, content, sidecar)
    if is_vera(content):
        return _vera(folder, file, content, sidecar)
    plain = as_plain_lora(content, file.tensors)
    config = parse_config(plain.content, str(folder))
    pairs, others = file_pairs(config, plain_names(plain.tensors)[0], sidecar)
    notes = [*plain.notes, *([] if sidecar else [NO_SIDECAR])]
    rows = row_count(others)
    notes += [f"{count} rows of {path} are trained (trainable_token_indices)" for path, count in rows.items()]
    copies = base_copies(pairs, others)
    whole = [name for name in others if not name.endswith((MAGNITUDE, DELTA, BIAS_OF_B)) and name not in copies]
    if whole:
        notes.append(f"{len(whole)} tensors are saved in full: {', '.join(whole[:4])}")
    kept = tuple(pair for pair in pairs if not _is_padding(pair, sidecar))
    said = {
        "rank_stabilized": config.rank_stabilized,
        "magnitude": config.magnitude,
        "invocation_tokens": config.invocation,
    }
    method = method_name(said if sidecar is None else sidecar.method)
    if config.bias_of_B:
        notes.append("lora_bias: every B has a bias, which moves its layer's own; norms are those of B·A alone")
    if config.magnitude:
        notes.append(
            "DoRA: the pairs change the direction of the weights, whose lengths are trained beside them; norms are "
            "those of B·A, not of the whole change"
        )
    if config.invocation:
        notes.append(
            f"aLoRA: it acts only from where the tokens {list(config.invocation)} begin on, at their last place"
        )
    return AdapterPairs(folder, name_for(folder), method, kept, others, len(file.tensors), sidecar, tuple(notes))


def _vera(folder: Path, file: TensorFile, content: Mapping[str, Any], sidecar: Sidecar | None) -> AdapterPairs:
    vera_spec(content, str(folder))
    pairs, others = vera_pairs(content, file.tensors, sidecar)
    notes = [] if sidecar else [NO_SIDECAR]
    return AdapterPairs(
        folder, name_for(folder), "vera", tuple(pairs), others, len(file.tensors), sidecar, tuple(notes)
    )


def _own(folder: Path, file: TensorFile, content: Mapping[str, Any], sidecar: Sidecar | None) -> AdapterPairs:
    if sidecar is None:
        raise AdapterFileError(f"{folder} is an adapter that only loralab can read, but its loralab.json is missing")
    pairs, others = [], dict(file.tensors)
    shared = shared_matrices(file.tensors, sidecar.shared)
    for path, record in sidecar.modules.items():
        pairs += [*_plain_pairs(folder, path, record, file.tensors), *special_pairs(path, record, file.tensors, shared)]
        for part, each in record.parts.items():
            for key in local_keys(path, part, each, shared).values():
                others.pop(key, None)
    for name in sidecar.shared:
        others.pop(f"{SHARED}.{name}", None)
    why = tuple(f"PEFT cannot load it: {reason}" for reason in own_reasons(content))
    method = method_name(sidecar.method)
    return AdapterPairs(folder, name_for(folder), method, tuple(pairs), others, len(file.tensors), sidecar, why)


def _plain_pairs(folder: Path, path: str, record: ModuleRecord, tensors: Mapping[str, Tensor]) -> Iterator[FilePair]:
    for part, each in record.parts.items():
        name = path if part == WHOLE else f"{path}.{part}"
        keys = f"{name}.lora_A", f"{name}.lora_B"
        if each.kind:
            continue
        if not all(key in tensors for key in keys):
            raise AdapterFileError(f"{folder} lacks {' or '.join(keys)}; get it again")
        yield FilePair(name, record.kind, keys, tensors[keys[0]], tensors[keys[1]], each.recipe, each.rows)


def _loralib(path: Path, alpha: float | None) -> AdapterPairs:
    file = read_tensors(path)
    checkpoint = Checkpoint.of(file)
    spoilt = [name for name, tensor in file.tensors.items() if not is_finite(tensor)]
    if spoilt:
        raise AdapterFileError(f"{path} holds NaN or infinite values in {listed(spoilt)}; get the adapter again")
    known = float(file.metadata[ALPHA_KEY]) if alpha is None and ALPHA_KEY in file.metadata else alpha
    pairs = tuple(
        FilePair(name, "linear", (f"{name}.lora_A", f"{name}.lora_B"), A, B, Recipe(B.shape[-1], known or 1.0))
        for name, (A, B) in checkpoint.pairs.items()
    )
    notes = ["a loralib checkpoint: it records no base model"]
    if known is None:
        notes.append("alpha is not recorded; pass it for the norms of the updates")
    keys = {key for pair in pairs for key in pair.keys}
    others = {key: tensor for key, tensor in file.tensors.items() if key not in keys}
    name = name_for(path)
    return AdapterPairs(path, name, "lora", pairs, others, len(file.tensors), None, tuple(notes), known is not None)


def _refuse_damaged(folder: Path, file: TensorFile, sidecar: Sidecar | None) -> None:
    if sidecar is not None:
        sidecar.check_belongs(file.path)
    spoilt = [name for name, tensor in file.tensors.items() if not is_finite(tensor)]
    if spoilt:
        raise AdapterFileError(f"{folder} holds NaN or infinite values in {listed(spoilt)}; get the adapter again")


def _is_padding(pair: FilePair, sidecar: Sidecar | None) -> bool:
    """Zeros that stand for the half of an nn.MultiheadAttention that is not adapted."""
    if sidecar is None or not pair.is_dead:
        return False
    record = sidecar.modules.get(pair.name.removesuffix(".out_proj"))
    if record is None or record.kind != "attention":
        return False
    return "out" not in record.parts if pair.kind == "attention output" else set(record.parts) == {"out"}
