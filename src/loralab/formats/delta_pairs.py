"""The plain pair that a delta of another kind comes to, from an adapter's files alone: for what inspects them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from loralab.core.adapter import SHARED
from loralab.core.updates.factors import SharedMatrices, Spot
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError
from loralab.files.tensor_checks import listed, problems_of
from loralab.formats.peft.vera_config import parse_vera
from loralab.formats.record import ModuleRecord, PartRecord
from loralab.formats.sidecar import Sidecar
from loralab.formats.updates import FilePair
from loralab.methods.vera import A_NAME, B_NAME, LAMBDA_B, LAMBDA_D, ScaledProjections


def local_keys(path: str, part: str, record: PartRecord, shared: SharedMatrices | None) -> dict[str, str]:
    """A delta's own tensors by their names in it → their keys in the file."""
    stem = path if part == WHOLE else f"{path}.{part}"
    if not record.kind:
        return {name: f"{stem}.{name}" for name in ("lora_A", "lora_B")}
    O, I = _shape(stem, record)  # noqa: E741
    blank = record.blank(Spot(stem, record.recipe, O, I, torch.device("meta"), shared=shared))
    return {name: f"{stem}.{name}" for name, _ in blank.stored()}


def shared_matrices(tensors: Mapping[str, Tensor], trains: Mapping[str, bool]) -> SharedMatrices | None:
    """Copies of those of a file, at least float32, by the names that loralab.json gives; AdapterFileError for one that
    is missing."""
    lost = [f"{SHARED}.{name}" for name in trains if f"{SHARED}.{name}" not in tensors]
    if lost:
        raise AdapterFileError(f"the adapter's file lacks the matrices that its modules share: {', '.join(lost)}")
    stored = {name: tensors[f"{SHARED}.{name}"] for name in trains}
    wide = {name: each.to(torch.promote_types(each.dtype, torch.float32), copy=True) for name, each in stored.items()}
    return SharedMatrices(wide, trains) if wide else None


def special_pairs(
    path: str, record: ModuleRecord, tensors: Mapping[str, Tensor], shared: SharedMatrices | None
) -> Iterator[FilePair]:
    """The pairs that a module's deltas come to, where they are no plain ones; AdapterFileError for what is missing."""
    for part, each in record.parts.items():
        if not each.kind:
            continue
        stem = path if part == WHOLE else f"{path}.{part}"
        O, I = _shape(stem, each)  # noqa: E741
        delta = each.blank(Spot(stem, each.recipe, O, I, torch.device("cpu"), shared=shared))
        expected = {f"{stem}.{name}": tuple(tensor.shape) for name, tensor in delta.stored()}
        problems = problems_of({key: tensors[key] for key in expected if key in tensors}, expected)
        if problems:
            raise AdapterFileError(f"the adapter's file does not hold what it should: {listed(problems)}; get it again")
        with torch.no_grad():
            for name, tensor in delta.stored():
                tensor.copy_(tensors[f"{stem}.{name}"])
        plain = delta.eval().as_lora()
        keys = f"{stem}.A", f"{stem}.B"
        A, B = plain.lora_A.detach(), plain.lora_B.detach()
        yield FilePair(stem, record.kind, keys, A, B, plain.recipe, each.rows)


# -- VeRA in PEFT's names ---------------------------------------------------------------------------------------


def vera_pairs(
    content: Mapping[str, Any], tensors: Mapping[str, Tensor], sidecar: Sidecar | None
) -> tuple[list[FilePair], dict[str, Tensor]]:
    """The pairs that a VeRA adapter in PEFT's layout comes to, and the tensors that are none of theirs.

    Without loralab.json every layer is taken to be as wide as the widest. Raises AdapterFileError where the file lacks
    the projections, which only the model's shapes could bring back.
    """
    named = {_own_name(key): tensor for key, tensor in tensors.items()}
    if not all(f"{SHARED}.{name}" in named for name in (A_NAME, B_NAME)):
        raise AdapterFileError(
            "this VeRA adapter was saved without its projections (save_projection): load it into its model with "
            "ll.load and save it again"
        )
    shared = shared_matrices(named, {A_NAME: False, B_NAME: False})
    records = _vera_records(content, named) if sidecar is None else sidecar.modules
    pairs = [pair for path, record in records.items() for pair in special_pairs(path, record, named, shared)]
    own = {f"{pair.name}.{name}" for pair in pairs for name in (LAMBDA_B, LAMBDA_D)}
    own |= {f"{SHARED}.{name}" for name in (A_NAME, B_NAME)}
    return pairs, {key: tensor for key, tensor in named.items() if key not in own}


def _own_name(key: str) -> str:
    """PEFT's key as our own layout would have it."""
    local = key.removeprefix("base_model.model.").removeprefix("base_model.")
    return f"{SHARED}.{local}" if local in (A_NAME, B_NAME) else local


def _vera_records(content: Mapping[str, Any], named: Mapping[str, Tensor]) -> dict[str, ModuleRecord]:
    recipe = parse_vera(content).recipe
    width = named[f"{SHARED}.{A_NAME}"].shape[1]
    paths = [key.removesuffix(f".{LAMBDA_B}") for key in named if key.endswith(f".{LAMBDA_B}")]
    shapes = {path: (len(named[f"{path}.{LAMBDA_B}"]), width) for path in paths}
    return {
        path: ModuleRecord("linear", {WHOLE: PartRecord(recipe, kind=ScaledProjections.kind, shape=shape)})
        for path, shape in shapes.items()
    }


def _shape(stem: str, record: PartRecord) -> tuple[int, int]:
    if record.shape is None:
        raise AdapterFileError(f"loralab.json does not say what shape the weight of {stem} has; save the adapter again")
    return record.shape
