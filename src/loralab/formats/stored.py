"""An adapter on disk, read once: a folder, ours or PEFT's, or a checkpoint of loralib's, without any model.

Whatever is wrong with it becomes a finding and the rest is still read. `demand` is for who needs a sound one,
`findings` for who says all that is wrong. Tensors are mapped into memory, not read, and taken apart into updates only
where somebody asks for these.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from loralab.core.adapter import SHARED, Plan
from loralab.core.updates.factors import Recipe
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError, LoralabError, NotFoundError, SpecError
from loralab.files.names import CONFIG_NAME, PEFT_FILES, PLAIN_NAME, SIDECAR_NAME, TENSORS_NAME
from loralab.files.tensors import TensorFile, is_finite, read_tensors
from loralab.formats.finding import Finding, some
from loralab.formats.folder import config_content, name_for, tensors_path
from loralab.formats.loralib import ALPHA_KEY, from_pairs, loralib_spec
from loralab.formats.own import from_own, own_reasons
from loralab.formats.peft.config import OWN_TYPE, PeftConfig, parse_config, spec_of
from loralab.formats.peft.dialects import as_plain_lora
from loralab.formats.peft.reading import from_peft, plain_names
from loralab.formats.peft.vera import VERA_TYPE, PeftVeraConfig, parse_vera, vera_from_peft, vera_spec
from loralab.formats.sidecar import Sidecar, read_sidecar
from loralab.formats.updates import (
    Piece,
    StoredUpdate,
    factor_keys,
    is_factor,
    local_keys,
    pieces_of,
    shared_matrices,
    special_updates,
    stored_update,
    vera_updates,
)
from loralab.methods.table import method_name

AGAIN = "get or save the adapter again"
UNEXPECTED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""What a value of the wrong type, deep in a damaged file, raises where it is used."""
Read = TypeVar("Read")


class Problem(NamedTuple):
    """Something that is wrong with an adapter: to be said, and to be raised."""

    finding: Finding
    error: LoralabError


class Problems:
    """What has been wrong so far with the adapter at `source`."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.seen: list[Problem] = []

    def attempt(self, where: str, advice: str, read: Callable[[], Read]) -> Read | None:
        """What `read` gives; None and a problem where it raises."""
        try:
            return read()
        except LoralabError as error:
            self.seen.append(Problem(Finding("error", where, str(error), advice), error))
        except UNEXPECTED as cause:
            what = f"{type(cause).__name__}: {cause}"
            self.add(where, f"reading it fails where it should not: {what}; a value is of a wrong type", AGAIN)
        return None

    def add(self, where: str, what: str, advice: str) -> None:
        """A problem that no reader raised."""
        error = AdapterFileError(f"{where} of {self.source}: {what}; {advice}")
        self.seen.append(Problem(Finding("error", where, what, advice), error))


@dataclass(frozen=True)
class Parted:
    """The tensors of an adapter, taken apart."""

    entries: tuple[StoredUpdate, ...] = ()
    """The pairs A, B whose factors are there, are finite and fit each other."""
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that are no low-rank factors, by key."""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, eq=False)
class StoredAdapter:
    """What an adapter's files hold, as far as they can be read, and what is wrong with them."""

    source: Path
    layout: "Layout"
    content: Mapping[str, Any] = field(default_factory=dict)
    """adapter_config.json, as that of plain LoRA where it was of a dialect; empty where it cannot be read."""
    config: PeftConfig | None = None
    """Of PEFT's LoRA; what tells its ranks and scales where it asks for more than can be honoured."""
    vera: PeftVeraConfig | None = None
    """Of PEFT's VeRA."""
    sidecar: Sidecar | None = None
    file: TensorFile | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """By the keys of the file; those of plain LoRA where it was of a dialect."""
    named: Mapping[str, Tensor] = field(default_factory=dict)
    """The same tensors without PEFT's prefix and the names of wrappers."""
    alpha: float | None = None
    """Of a loralib checkpoint: as it was given, or recorded by who wrote the file; None where it is not known."""
    why_not_peft: tuple[str, ...] = ()
    """Of loralab's own layout."""
    rank_stabilized: bool = False
    """Of a loralib checkpoint: whether scales are α/√r, which it does not record either."""
    said: tuple[str, ...] = ()
    """What the reader of a dialect has to say."""
    reading: tuple[Problem, ...] = ()
    """What was wrong with the files, before any look at the tensors in them."""

    def readable(self) -> "StoredAdapter":
        """Itself; an error where a file is missing, damaged or asks for what cannot be honoured."""
        _refuse(self.reading)
        return self

    def demand(self) -> "StoredAdapter":
        """Itself; an error listing all that is wrong with the files and the tensors in them."""
        _refuse([*self.reading, *self.parted.problems])
        return self

    @property
    def findings(self) -> list[Finding]:
        """All that is wrong."""
        advice = "loralab convert --to peft writes that plain LoRA"
        problems = [problem.finding for problem in (*self.reading, *self.parted.problems)]
        return [*problems, *(Finding("note", CONFIG_NAME, note, advice) for note in self.said)]

    @cached_property
    def parted(self) -> Parted:
        """The tensors, taken apart."""
        return Parted() if self.file is None else _take_apart(self)

    @property
    def entries(self) -> tuple[StoredUpdate, ...]:
        """The pairs A, B whose factors are there, are finite and fit each other."""
        return self.parted.entries

    @property
    def updates(self) -> list[StoredUpdate]:
        """The entries without those that are zeros in the place of what is not adapted."""
        return [entry for entry in self.parted.entries if not _is_padding(entry, self.sidecar)]

    @cached_property
    def pieces_by_entry(self) -> list[tuple[StoredUpdate, list[Piece]]]:
        """Every A and B of the file, with the modules' own updates in them."""
        return [(entry, pieces_of(entry, self.sidecar, self.is_own)) for entry in self.entries]

    @property
    def pieces(self) -> list[Piece]:
        """The modules' own updates, in the order of the file."""
        return [piece for _, pieces in self.pieces_by_entry for piece in pieces]

    @property
    def others(self) -> Mapping[str, Tensor]:
        """Tensors that are no low-rank factors, by key."""
        return self.parted.others

    @property
    def count(self) -> int:
        """How many tensors are in the file."""
        return 0 if self.file is None else len(self.file.tensors)

    @property
    def name(self) -> str:
        """What it is called after its folder or file."""
        return name_for(self.source)

    @property
    def method(self) -> str:
        """As the command line calls it."""
        return self.layout.method(self)

    @property
    def is_own(self) -> bool:
        """Whether only loralab can read it."""
        return self.layout is OWN

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a file of loralib's."""
        return self.layout is LORALIB

    @property
    def alpha_is_known(self) -> bool:
        """Where it is not, scales are those of alpha 1."""
        return not self.is_checkpoint or self.alpha is not None

    @property
    def where(self) -> str:
        """The file of the tensors, as findings name it."""
        return self.source.name if self.is_checkpoint else TENSORS_NAME

    @property
    def has_plain(self) -> bool:
        """Whether the plain LoRA that it comes to lies beside it; its configuration is written last."""
        return self.is_own and (self.source / PLAIN_NAME / CONFIG_NAME).is_file()

    def plain(self) -> "StoredAdapter":
        """The plain LoRA that lies beside it, itself where there is none."""
        return read_adapter(self.source / PLAIN_NAME) if self.has_plain else self


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        errors = [problem.error for problem in problems]
        if len(errors) == 1 or not isinstance(errors[0], AdapterFileError):
            raise errors[0]
        raise AdapterFileError("; ".join(dict.fromkeys(map(str, errors)))) from errors[0]


# -- reading ------------------------------------------------------------------------------------------------------


def read_adapter(path: str | Path, alpha: float | None = None) -> StoredAdapter:
    """Read an adapter folder, ours or PEFT's, or a loralib checkpoint, which does not record its `alpha`.

    Raises NotFoundError where there is no adapter at all, SpecError for an `alpha` that a folder itself says.
    """
    source = Path(path)
    if not source.exists():
        raise NotFoundError(f"{source}: there is no such folder or file; name an adapter's or a checkpoint")
    if not source.is_dir():
        return _checkpoint(source, alpha)
    if alpha is not None:
        raise SpecError(f"alpha {alpha:g} was given for {source}, whose {CONFIG_NAME} says its own; leave it out")
    if not any((source / name).exists() for name in PEFT_FILES):
        config_content(source)
    return _folder(source)


def _folder(source: Path) -> StoredAdapter:
    problems = Problems(source)
    content = problems.attempt(CONFIG_NAME, AGAIN, lambda: config_content(source)) or {}
    file = problems.attempt(TENSORS_NAME, AGAIN, lambda: read_tensors(tensors_path(source)))
    sidecar = problems.attempt(SIDECAR_NAME, f"{AGAIN}, or remove it", lambda: read_sidecar(source))
    if sidecar is not None and file is not None:
        problems.attempt(SIDECAR_NAME, AGAIN, lambda: sidecar.check_belongs(file.path))
    layout = next((each for each in (OWN, VERA) if each.peft_type == content.get("peft_type")), PEFT)
    tensors = {} if file is None else file.tensors
    stored = StoredAdapter(source, layout, content, None, None, sidecar, file, tensors, tensors)
    return replace(layout.understand(stored, problems), reading=tuple(problems.seen))


def _checkpoint(source: Path, alpha: float | None) -> StoredAdapter:
    problems = Problems(source)
    file = problems.attempt(source.name, AGAIN, lambda: read_tensors(source))
    tensors = {} if file is None else file.tensors
    if file is not None and alpha is None and ALPHA_KEY in file.metadata:
        alpha = problems.attempt(source.name, "give it, as --alpha 16", lambda: float(file.metadata[ALPHA_KEY]))
    named = {key.removeprefix("module."): each for key, each in tensors.items()}
    return StoredAdapter(
        source, LORALIB, file=file, tensors=tensors, named=named, alpha=alpha, reading=tuple(problems.seen)
    )


# -- the tensors ----------------------------------------------------------------------------------------------------


def _take_apart(stored: StoredAdapter) -> Parted:
    """Sort the tensors into whole pairs and others; what cannot be used is a problem."""
    problems, where, tensors = Problems(stored.source), stored.where, stored.named
    spoilt = _spoilt(stored, problems)
    keys = list(factor_keys(tensors))
    lost = [key for pair in keys for key in pair if key not in tensors]
    whole = {A: (A, B) for A, B in keys if A in tensors and B in tensors and not {A, B} & spoilt}
    loose = {key: each for key, each in tensors.items() if not is_factor(key) and key not in spoilt}
    entries, others = stored.layout.part(stored, list(whole.values()), loose, problems)
    unfit = [f"{key} {list(each.shape)}" for entry in entries if not entry.fits for key, each in entry.by_key.items()]
    for wrong, what in ((lost, "are missing, their other factor is there"), (unfit, "do not fit each other")):
        if wrong:
            problems.add(where, f"{some(wrong)} {what}", AGAIN)
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


def _is_padding(update: StoredUpdate, sidecar: Sidecar | None) -> bool:
    """Zeros that stand for the half of an nn.MultiheadAttention that is not adapted."""
    record = None if sidecar is None else sidecar.modules.get(update.module)
    if record is None or record.kind != "attention" or not update.is_dead:
        return False
    return "out" not in record.parts if update.kind == "attention output" else set(record.parts) == {"out"}


# -- the layouts ------------------------------------------------------------------------------------------------------

Keys = list[tuple[str, str]]
"""Of A and B."""
Others = Mapping[str, Tensor]
PartedTensors = tuple[list[StoredUpdate], Others]


@dataclass(frozen=True)
class Layout:
    """A way in which adapters lie in files, and what is done otherwise in each of them."""

    peft_type: str | None
    """What adapter_config.json calls it; None where there is none."""
    understand: Callable[[StoredAdapter, Problems], StoredAdapter]
    """Fills in what the configuration means."""
    part: Callable[[StoredAdapter, Keys, dict[str, Tensor], Problems], PartedTensors]
    """From the keys of whole pairs and the other tensors to the updates, and what is no update's."""
    place: Callable[[StoredAdapter, nn.Module], Plan]
    """Its updates for a model, filled; AdapterFileError listing all that does not fit. The model is not changed."""
    spec: Callable[[StoredAdapter, Plan], object]
    """The specification that it was made from, or that comes nearest."""
    method: Callable[[StoredAdapter], str]


# -- PEFT's LoRA


def _understand_peft(stored: StoredAdapter, problems: Problems) -> StoredAdapter:
    plain = problems.attempt(CONFIG_NAME, AGAIN, lambda: as_plain_lora(stored.content, stored.tensors))
    content, tensors = (stored.content, stored.tensors) if plain is None else (plain.content, plain.tensors)
    config = None
    if content and plain is not None:
        advice = "do what is said there, or train again without"
        place = str(stored.source / CONFIG_NAME)
        config = problems.attempt(CONFIG_NAME, advice, lambda: parse_config(content, place))
    named = problems.attempt(TENSORS_NAME, AGAIN, lambda: plain_names(tensors)[0])
    return replace(
        stored,
        content=content,
        config=config or _scales_alone(content),
        tensors=tensors,
        named=tensors if named is None else named,
        said=() if plain is None else plain.notes,
    )


_DECIDE_SCALES = (
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "target_parameters",
)


def _scales_alone(content: Mapping[str, Any]) -> PeftConfig | None:
    """What a configuration that cannot be honoured says of ranks and scales; None where it does not say that either."""
    kept = {key: content[key] for key in _DECIDE_SCALES if key in content}
    try:
        return parse_config({**kept, "peft_type": "LORA"}, CONFIG_NAME)
    except (AdapterFileError, *UNEXPECTED):
        return None


def _part_peft(stored: StoredAdapter, keys: Keys, others: dict[str, Tensor], problems: Problems) -> PartedTensors:
    config = stored.config or PeftConfig(rank=8, alpha=8.0)
    read = (
        problems.attempt(stored.where, AGAIN, partial(stored_update, config, stored.sidecar, each, stored.named))
        for each in keys
    )
    return [update for update in read if update is not None], others


def _place_peft(stored: StoredAdapter, model: nn.Module) -> Plan:
    assert stored.config is not None
    updates, notes = from_peft(model, stored.config, stored.tensors, stored.sidecar)
    return Plan(updates, (*stored.said, *notes), _heads(stored))


def _heads(stored: StoredAdapter) -> tuple[str, ...]:
    return () if stored.sidecar is None else stored.sidecar.heads


def _peft_spec(stored: StoredAdapter, plan: Plan) -> object:
    assert stored.config is not None
    return (stored.sidecar and stored.sidecar.spec()) or spec_of(stored.config)


def _peft_method(stored: StoredAdapter) -> str:
    if stored.sidecar is not None:
        return method_name(stored.sidecar.method)
    names = {"rank_stabilized": "rank_stabilized", "magnitude": "magnitude", "invocation_tokens": "invocation"}
    return method_name({"type": "LoRA"} | {name: getattr(stored.config, field, None) for name, field in names.items()})


# -- PEFT's VeRA


def _understand_vera(stored: StoredAdapter, problems: Problems) -> StoredAdapter:
    place = str(stored.source / CONFIG_NAME)
    vera = problems.attempt(CONFIG_NAME, AGAIN, lambda: parse_vera(stored.content, place))
    named = problems.attempt(TENSORS_NAME, AGAIN, lambda: plain_names(stored.tensors)[0])
    return replace(stored, vera=vera, named=stored.tensors if named is None else named)


def _part_vera(stored: StoredAdapter, keys: Keys, others: dict[str, Tensor], problems: Problems) -> PartedTensors:
    if stored.vera is None:
        return [], others
    recipe = stored.vera.recipe
    read = problems.attempt(stored.where, AGAIN, lambda: vera_updates(recipe, stored.named, stored.sidecar))
    return ([], others) if read is None else read


def _place_vera(stored: StoredAdapter, model: nn.Module) -> Plan:
    assert stored.vera is not None
    updates, shared, notes = vera_from_peft(model, stored.vera, stored.tensors, stored.sidecar)
    return Plan(updates, tuple(notes), _heads(stored), shared)


def _vera_spec(stored: StoredAdapter, plan: Plan) -> object:
    assert stored.vera is not None
    return (stored.sidecar and stored.sidecar.spec()) or vera_spec(stored.vera)


# -- loralab's own


def _understand_own(stored: StoredAdapter, problems: Problems) -> StoredAdapter:
    if not (stored.source / SIDECAR_NAME).exists():
        what = f"{stored.source} is an adapter that only loralab can read, but its {SIDECAR_NAME} is missing"
        problems.add(SIDECAR_NAME, what, AGAIN)
    reasons = problems.attempt(CONFIG_NAME, AGAIN, lambda: own_reasons(stored.content))
    return replace(stored, why_not_peft=tuple(reasons or ()))


def _part_own(stored: StoredAdapter, keys: Keys, others: dict[str, Tensor], problems: Problems) -> PartedTensors:
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


def _place_own(stored: StoredAdapter, model: nn.Module) -> Plan:
    assert stored.sidecar is not None
    updates, shared = from_own(model, stored.tensors, stored.sidecar.modules, stored.sidecar.shared)
    return Plan(updates, (), _heads(stored), shared)


def _own_spec(stored: StoredAdapter, plan: Plan) -> object:
    return stored.sidecar and stored.sidecar.spec()


def _own_method(stored: StoredAdapter) -> str:
    return method_name(stored.sidecar.method) if stored.sidecar else ""


# -- loralib's


def _part_checkpoint(stored: StoredAdapter, keys: Keys, others: dict[str, Tensor], problems: Problems) -> PartedTensors:
    own = [(A, B) for A, B in keys if A.endswith(".lora_A")]
    if not own:
        of_peft = any(".lora_A." in key for key in stored.named)
        what = "is PEFT's file" if of_peft else "has no names ending in lora_A, lora_B"
        problems.add(stored.where, f"it {what}", "give the folder that holds it" if of_peft else AGAIN)
    updates = [
        StoredUpdate(
            A.rpartition(".")[0],
            "linear",
            (A, B),
            stored.named[A],
            stored.named[B],
            Recipe(stored.named[B].shape[-1], stored.alpha or 1.0),
        )
        for A, B in own
    ]
    foreign = {key: stored.named[key] for pair in keys if pair not in own for key in pair}
    return updates, others | foreign


def _place_checkpoint(stored: StoredAdapter, model: nn.Module) -> Plan:
    if stored.alpha is None:
        raise SpecError(
            f"{stored.source} is a loralib checkpoint, which does not record alpha; pass the alpha it was trained "
            "with, as load(model, path, alpha=16)"
        )
    pairs = {each.name: (each.A, each.B) for each in stored.demand().updates}
    updates, notes = from_pairs(model, pairs, stored.others, stored.alpha, stored.rank_stabilized)
    return Plan(updates, tuple(notes), ())


def _checkpoint_spec(stored: StoredAdapter, plan: Plan) -> object:
    return loralib_spec(plan.updates, stored.alpha or 1.0, stored.rank_stabilized)


PEFT = Layout("LORA", _understand_peft, _part_peft, _place_peft, _peft_spec, _peft_method)
VERA = Layout(VERA_TYPE, _understand_vera, _part_vera, _place_vera, _vera_spec, lambda stored: "vera")
OWN = Layout(OWN_TYPE, _understand_own, _part_own, _place_own, _own_spec, _own_method)
LORALIB = Layout(
    None, lambda stored, _: stored, _part_checkpoint, _place_checkpoint, _checkpoint_spec, lambda stored: "lora"
)
