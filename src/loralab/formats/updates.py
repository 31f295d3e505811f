"""The tensors of an adapter's file taken apart into updates, by names and loralab.json alone, without any model.

Shapes: R rank, I inputs, O outputs.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor

from loralab.core.adapter import SHARED
from loralab.core.updates.factors import Recipe, SharedMatrices, Spot
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError, listed, some
from loralab.files.names import CONFIG_NAME, SIDECAR_NAME
from loralab.files.tensors import is_finite, problems_of
from loralab.formats.peft.agreement import disagreements
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.keys import EMBEDDING_A, WRAPPED, A, is_named, plain_path
from loralab.formats.peft.vera import vera_record
from loralab.formats.record import ModuleRecord, PartRecord
from loralab.formats.sidecar import Sidecar
from loralab.formats.stored import AGAIN, Parted, Problems, StoredAdapter, StoredUpdate
from loralab.methods.vera import A_NAME, B_NAME, LAMBDA_B, LAMBDA_D

OUTPUT = f".{WRAPPED}.out_proj"

Keys = list[tuple[str, str]]
"""Of A and B."""
Tensors = Mapping[str, Tensor]
UpdatesAndOthers = tuple[list[StoredUpdate], Tensors]
Part = Callable[[StoredAdapter, Keys, Tensors, Problems], UpdatesAndOthers]
"""From the keys of whole pairs and the other tensors to (the updates, the tensors that belong to none)."""


def _take_apart(stored: StoredAdapter, part: Part) -> Parted:
    """Sort the tensors into whole pairs and others; what cannot be used is a problem."""
    problems, where, tensors = Problems(), stored.where, stored.named
    spoilt = _spoilt(stored, problems)
    keys = [(A, B) for A, B in factor_keys(tensors) if not stored.is_checkpoint or A.endswith(".lora_A")]
    lost = [key for pair in keys for key in pair if key not in tensors]
    whole = {A: (A, B) for A, B in keys if A in tensors and B in tensors and not {A, B} & spoilt}
    loose = {key: each for key, each in tensors.items() if key not in spoilt.union(*keys)}
    entries, others = part(stored, list(whole.values()), loose, problems)
    unfit = [f"{key} {list(each.shape)}" for entry in entries if not entry.fits for key, each in entry.by_key.items()]
    if lost:
        problems.add(where, f"{some(lost)} {'is' if len(lost) == 1 else 'are'} missing beside the other factor", AGAIN)
    if unfit:
        problems.add(where, f"{some(unfit)} do not fit each other", AGAIN)
    return Parted(tuple(each for each in entries if each.fits), others, tuple(problems.seen))


def _spoilt(stored: StoredAdapter, problems: Problems) -> set[str]:
    """Keys of tensors that hold NaN or infinity, or nothing."""
    empty = [key for key, each in stored.named.items() if each.numel() == 0]
    infinite = [key for key, each in stored.named.items() if not is_finite(each)]
    where = stored.where
    if empty:
        advice = "gather sharded weights before saving, and save again"
        problems.add(where, f"{len(empty)} tensors are empty: {some(empty)}", advice)
    if infinite:
        advice = "go back to an earlier checkpoint and train with a lower learning rate"
        problems.add(where, f"{len(infinite)} tensors hold NaN or infinite values: {some(infinite)}", advice)
    if not stored.named:
        problems.add(where, "it holds no tensors", AGAIN)
    return {*empty, *infinite}


def _of_sorted(part: Part) -> Callable[[StoredAdapter], Parted]:
    """What is done differently for a layout, after what is done alike for all."""
    return lambda stored: _take_apart(stored, part)


# -- by layout -------------------------------------------------------------------------------------------------------


@_of_sorted
def part_peft(stored: StoredAdapter, keys: Keys, others: Tensors, problems: Problems) -> UpdatesAndOthers:
    """Of PEFT's LoRA: a pair for each module or raw parameter."""
    config = stored.config or PeftConfig(rank=8, alpha=8.0)
    read = (
        problems.attempt(stored.where, AGAIN, partial(stored_update, config, stored.sidecar, each, stored.named))
        for each in keys
    )
    updates = [update for update in read if update is not None]
    if stored.config is not None:
        records = None if stored.sidecar is None else stored.sidecar.modules
        for what, advice in disagreements(config, records, [each for each in updates if each.fits]):
            problems.add(CONFIG_NAME, what, advice)
    return updates, others


@_of_sorted
def part_vera(stored: StoredAdapter, keys: Keys, others: Tensors, problems: Problems) -> UpdatesAndOthers:
    """Of PEFT's VeRA: the pairs that its vectors and projections come to."""
    if stored.vera is None:
        return [], others
    recipe = stored.vera.recipe
    read = problems.attempt(stored.where, AGAIN, lambda: vera_updates(recipe, stored.named, stored.sidecar))
    return ([], others) if read is None else read


@_of_sorted
def part_own(stored: StoredAdapter, keys: Keys, others: Tensors, problems: Problems) -> UpdatesAndOthers:
    """Of loralab's own layout: plain pairs, and what other deltas come to."""
    sidecar, where = stored.sidecar, stored.where
    if sidecar is None:
        return [], others
    shared = problems.attempt(SIDECAR_NAME, AGAIN, lambda: shared_matrices(stored.named, sidecar.shared))
    of_modules: dict[str, None] = {f"{SHARED}.{name}": None for name in sidecar.shared}
    updates = list[StoredUpdate]()
    for path, record in sidecar.modules.items():
        for part, each in record.parts.items():
            local = problems.attempt(where, AGAIN, partial(local_keys, path, part, each, shared)) or {}
            of_modules |= dict.fromkeys(local.values())
            if each.kind:
                continue
            name, pair = path if part == WHOLE else f"{path}.{part}", (local["lora_A"], local["lora_B"])
            if pair in keys:
                A, B = (stored.named[key] for key in pair)
                updates.append(StoredUpdate(name, record.kind, pair, A, B, each.recipe, each.rows))
            elif not set(pair) <= stored.named.keys():
                problems.add(where, f"{name} has a low-rank update in {SIDECAR_NAME}, but none in the file", AGAIN)
        updates += problems.attempt(where, AGAIN, partial(special_updates, path, record, stored.named, shared)) or ()
    return updates, {key: each for key, each in others.items() if key not in of_modules}


@_of_sorted
def part_checkpoint(stored: StoredAdapter, keys: Keys, others: Tensors, problems: Problems) -> UpdatesAndOthers:
    """Of a checkpoint of loralib's: stacked pairs of fused projections are one."""
    if not any(key.endswith((".lora_A", ".lora_B")) for key in stored.named):
        of_peft = any(".lora_A." in key for key in stored.named)
        what = "it is PEFT's file" if of_peft else "it has no names ending in lora_A, lora_B"
        problems.add(stored.where, what, "load the folder that holds it" if of_peft else AGAIN)
    updates = [
        StoredUpdate(
            A.rpartition(".")[0],
            "linear",
            (A, B),
            stored.named[A],
            stored.named[B],
            Recipe(stored.named[B].shape[-1], stored.alpha or 1.0),
        )
        for A, B in keys
    ]
    return updates, others


# -- pairs of PEFT's ------------------------------------------------------------------------------------------------

_FACTOR = re.compile(r"(?P<stem>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?P<end>\.weight)?")


def factor_keys(tensors: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(key of A, key of B) of every pair of which at least one is there, in the order of their A."""
    matches = [match for key in tensors if (match := _FACTOR.fullmatch(key))]
    stems = [(f"{match['stem']}.lora_{match['embedding'] or ''}", match["end"] or "") for match in matches]
    in_order = sorted(zip(matches, stems, strict=True), key=lambda each: each[0]["factor"])
    return ((f"{start}A{end}", f"{start}B{end}") for start, end in dict.fromkeys(stem for _, stem in in_order))


def stored_update(
    config: PeftConfig, sidecar: Sidecar | None, keys: tuple[str, str], tensors: Mapping[str, Tensor]
) -> StoredUpdate:
    """The update of two factors in PEFT's layout, from their plain names."""
    A_values, B_values = (tensors[key] for key in keys)
    stem = keys[0].removesuffix(f".{A}").removesuffix(f".{EMBEDDING_A}")
    output = stem.endswith(OUTPUT)
    path = plain_path(stem.removesuffix(OUTPUT) if output else stem)
    name = path if output else _parameter_name(config, sidecar, path, stem) or path
    recipe = config.recipe(name)
    if name == f"{path}.{WHOLE}" and len(A_values) == recipe.rank:
        name = path
    kind = "linear" if A_values.dim() == 2 else "conv"
    if keys[0].endswith(EMBEDDING_A):
        kind = "embedding"
    elif output:
        kind = "attention output"
    elif name != path and len(A_values) != recipe.rank:
        kind = "experts"
    return StoredUpdate(f"{path}.out_proj" if output else name, kind, keys, A_values, B_values, recipe)


def _parameter_name(config: PeftConfig, sidecar: Sidecar | None, path: str, stem: str) -> str | None:
    """`<path>.<parameter>` where the pair belongs to a raw parameter: the outermost wrapper is the last parameter's."""
    names = list(_parameters_of(config, sidecar, path))
    depth = sum(1 for _ in takewhile(lambda piece: piece == WRAPPED, reversed(stem.split("."))))
    return f"{path}.{names[-1 - depth]}" if depth < len(names) else None


def _parameters_of(config: PeftConfig, sidecar: Sidecar | None, path: str) -> Iterator[str]:
    if sidecar is not None:
        record = sidecar.modules.get(path)
        yield from record.parts if record is not None and record.kind == "parameters" else ()
        return
    targets = config.targets if isinstance(config.targets, tuple) else ()
    for name in config.target_parameters:
        module, _, parameter = name.rpartition(".")
        if is_named(path, [module]) if module else not is_named(path, targets):
            yield parameter


# -- deltas of other kinds than a plain pair -----------------------------------------------------------------------


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


def special_updates(
    path: str, record: ModuleRecord, tensors: Mapping[str, Tensor], shared: SharedMatrices | None
) -> Iterator[StoredUpdate]:
    """The pairs that a module's deltas of other kinds come to; AdapterFileError for what is missing."""
    for part, each in record.parts.items():
        if not each.kind:
            continue
        stem = path if part == WHOLE else f"{path}.{part}"
        O, I = _shape(stem, each)  # noqa: E741
        delta = each.blank(Spot(stem, each.recipe, O, I, torch.device("cpu"), shared=shared))
        expected = {f"{stem}.{name}": tensor for name, tensor in delta.stored()}
        problems = problems_of({key: tensors[key] for key in expected if key in tensors}, expected)
        if problems:
            raise AdapterFileError(f"the adapter's file does not hold what it should: {listed(problems)}; get it again")
        delta.fill({name: tensors[f"{stem}.{name}"] for name, _ in delta.stored()})
        plain = delta.eval().as_lora()
        keys = f"{stem}.A", f"{stem}.B"
        A, B = plain.lora_A.detach(), plain.lora_B.detach()
        yield StoredUpdate(stem, record.kind, keys, A, B, plain.recipe, each.rows)


# -- VeRA in PEFT's names ---------------------------------------------------------------------------------------


def vera_updates(
    recipe: Recipe, tensors: Mapping[str, Tensor], sidecar: Sidecar | None
) -> tuple[list[StoredUpdate], dict[str, Tensor]]:
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
    records = _vera_records(recipe, named) if sidecar is None else sidecar.modules
    pairs = [pair for path, record in records.items() for pair in special_updates(path, record, named, shared)]
    own = {f"{pair.name}.{name}" for pair in pairs for name in (LAMBDA_B, LAMBDA_D)}
    own |= {f"{SHARED}.{name}" for name in (A_NAME, B_NAME)}
    return pairs, {key: tensor for key, tensor in named.items() if key not in own}


def _own_name(key: str) -> str:
    """PEFT's key as our own layout would have it."""
    local = key.removeprefix("base_model.model.").removeprefix("base_model.")
    return f"{SHARED}.{local}" if local in (A_NAME, B_NAME) else local


def _vera_records(recipe: Recipe, named: Mapping[str, Tensor]) -> dict[str, ModuleRecord]:
    width = named[f"{SHARED}.{A_NAME}"].shape[1]
    paths = [key.removesuffix(f".{LAMBDA_B}") for key in named if key.endswith(f".{LAMBDA_B}")]
    shapes = {path: (len(named[f"{path}.{LAMBDA_B}"]), width) for path in paths}
    return {path: vera_record(recipe, shape) for path, shape in shapes.items()}


def _shape(stem: str, record: PartRecord) -> tuple[int, int]:
    if record.shape is None:
        raise AdapterFileError(f"loralab.json does not say what shape the weight of {stem} has; save the adapter again")
    return record.shape
