"""What an adapter's updates are made of, apart from their numbers: as data that fits into JSON, and back.

`describe` reads it off an update; `ModuleRecord.build` makes an update of that structure, its factors not yet
filled, for a module of any model. Knows nothing of files or of PEFT.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.updates.build import Site, build, kind_of
from loralab.core.updates.factors import LowRankDelta, Recipe, SharedMatrices, Spot, plain_pair
from loralab.core.updates.low_rank import BiasedLinear, ConvUpdate, LinearUpdate
from loralab.core.updates.magnitude import Magnitude
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import KINDS, WHOLE, Kind, Update
from loralab.errors import AdapterFileError
from loralab.files.values import count, flag, listing, mapping, number, sizes, text, texts
from loralab.methods.adamix_adapter import MixedBottleneckUpdate
from loralab.methods.bottleneck import BottleneckUpdate
from loralab.methods.prefix.update import BlockPrefixUpdate, PrefixUpdate
from loralab.methods.registry import deltas
from loralab.methods.trainable_tokens import RESIZE
from loralab.nn.tensors import device_of, tensor_of

_UNFIT = (LookupError, AttributeError, RuntimeError, TypeError, ValueError)
"""What making an update raises where a record, which may be any file's, and a module do not go together."""

Runs = list[list[int]]
"""Row numbers as [first, one past last] runs."""


@dataclass(frozen=True)
class PartRecord:
    """One low-rank delta: its recipe, and its output rows where it is a part of a fused projection."""

    recipe: Recipe
    rows: Runs | None = None
    kind: str = ""
    """Of delta (`LowRankDelta.kind`); empty for a plain pair."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What `blank` takes, of a delta other than a plain pair."""
    shape: tuple[int, int] | None = None
    """And the matrix [O, I] that it updates."""

    def to_json(self) -> dict[str, Any]:
        """The recipe's fields, the rows if there are any, and what sets it apart from a plain pair."""
        content = asdict(self.recipe) | ({"rows": self.rows} if self.rows is not None else {})
        if not self.kind:
            return content
        return content | {"delta": self.kind, "settings": dict(self.settings), "shape": list(self.shape or ())}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "PartRecord":
        """The inverse of `to_json`; raises TypeError for fields that do not exist, or hold what they cannot."""
        fields = dict(content)
        rows, kind = fields.pop("rows", None), text(fields.pop("delta", ""), "delta")
        settings, shape = mapping(fields.pop("settings", {}), "settings"), sizes(fields.pop("shape", []), "shape")
        if len(shape) != (2 if kind else 0):
            raise TypeError(f"shape is {list(shape)}, not the outputs and inputs of the matrix that it updates")
        out_and_in = (shape[0], shape[1]) if kind else None
        return PartRecord(_recipe(fields), None if rows is None else _runs(rows), kind, settings, out_and_in)

    def blank(self, spot: Spot) -> LowRankDelta:
        """A delta of this structure for one matrix, its own tensors zero; AdapterFileError where that cannot be."""
        meta = replace(spot, device=torch.device("meta"), settings=self.settings)
        try:
            made = deltas()[self.kind].blank(meta) if self.kind else plain_pair(meta)
            delta = made.zeroed(spot.device)
            _refuse_misshapen(delta, spot.out_features, spot.in_features)
        except _UNFIT as problem:
            raise AdapterFileError(
                f"a delta of the kind {self.kind!r} cannot be made as recorded: {problem}"
            ) from problem
        return delta


@dataclass(frozen=True)
class ModuleRecord:
    """One update: its kind, its factor pairs by part, and the names of the tensors it replaces in full."""

    kind: Kind
    parts: Mapping[str, PartRecord] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    dense: bool = False
    """For grouped convolutions: A reads every input channel, as PEFT trains it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """As `Update.settings` gives them."""
    magnitude: bool = False
    """Whether lengths train as well (DoRA)."""
    biased: bool = False
    """Whether it brings a bias to a layer without one."""
    invocation: tuple[int, ...] = ()
    """The tokens from which on it acts (aLoRA); empty where it acts at every position."""

    @property
    def recorded_kind(self) -> str:
        """The kind as files have it, with what trains or happens beside the pairs."""
        return self.kind + (
            MAGNITUDE if self.magnitude else BIASED if self.biased else INVOKED if self.invocation else ""
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, empty fields left out; the parts are a list, because they are packed in this order."""
        content: dict[str, Any] = {"kind": self.recorded_kind}
        settings = {**self.settings, **({INVOCATION: list(self.invocation)} if self.invocation else {})}
        if self.parts:
            content["parts"] = [{"part": part, **record.to_json()} for part, record in self.parts.items()]
        if self.replaced:
            content["replaced"] = list(self.replaced)
        if settings:
            content["settings"] = settings
        return content | ({"dense": True} if self.dense else {})

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "ModuleRecord":
        """The inverse of `to_json`; raises TypeError or KeyError for another shape of content."""
        records = [mapping(record, "part") for record in listing(content.get("parts", []), "parts")]
        parts = {
            text(record["part"], "part"): PartRecord.from_json(
                {key: each for key, each in record.items() if key != "part"}
            )
            for record in records
        }
        kind, suffix = _kind_and_suffix(text(content["kind"], "kind"))
        settings = dict(mapping(content.get("settings", {}), "settings"))
        return ModuleRecord(
            kind,
            parts,
            tuple(texts(content.get("replaced", []), "replaced")),
            flag(content.get("dense", False), "dense"),
            settings,
            magnitude=suffix == MAGNITUDE,
            biased=suffix == BIASED,
            invocation=sizes(settings.pop(INVOCATION), INVOCATION) if suffix == INVOKED else (),
        )

    def at_ranks(self, ranks: Mapping[str, int]) -> "ModuleRecord":
        """The record with other ranks by part, every scale as it was."""
        return replace(
            self,
            parts={
                part: replace(each, recipe=each.recipe.at_rank(ranks.get(part, each.recipe.rank)))
                for part, each in self.parts.items()
            },
        )

    def build(self, path: str, module: nn.Module, shared: SharedMatrices | None = None) -> Update:
        """An update of this structure for `module`, its factors zero; AdapterFileError if it does not fit there."""
        make = _MADE.get(self.kind)
        if make is None and not (self.parts and self.kind in ("parameters", kind_of(module))):
            raise AdapterFileError(
                f"{path} is a {type(module).__name__}, but the adapter has an update of the kind "
                f"{self.recorded_kind!r} for it"
            )
        try:
            return build(self._site(path, module, shared), self.kind) if make is None else make(self, module)
        except _UNFIT as problem:
            raise AdapterFileError(f"the adapter's update of {path} does not fit {module}: {problem}") from problem

    def _site(self, path: str, module: nn.Module, shared: SharedMatrices | None) -> Site:
        """What a fresh update of this structure is made from, the values to come."""
        site = Site(
            path,
            module,
            {part: each.recipe for part, each in self.parts.items()},
            self._layout(),
            magnitude=self.magnitude,
            through_norm=bool(self.settings.get("through_norm")),
            invocation=self.invocation,
            biased=self.biased,
            dense=self.dense,
            blank=True,
        )
        named = {site.name_of(part): each for part, each in self.parts.items()}
        special = any(each.kind for each in self.parts.values())
        return site.made_by(lambda spot: named[spot.path].blank(replace(spot, shared=shared))) if special else site

    def _layout(self) -> dict[str, Tensor]:
        """The output rows of each part of a fused projection."""
        unplaced = [part for part, each in self.parts.items() if (each.rows is None) != (part == WHOLE)]
        if self.kind == "linear" and unplaced:
            raise IndexError(f"the record does not say which rows of the whole are those of {', '.join(unplaced)}")
        return {part: rows_of(each.rows) for part, each in self.parts.items() if each.rows is not None}


MAGNITUDE, BIASED, INVOKED = " with magnitude", " with a bias of its own", " from its invocation on"
"""What files add to the kind of an update with trained lengths, with a bias, with an invocation."""
INVOCATION = "invocation"


def _kind_and_suffix(recorded: str) -> tuple[Kind, str]:
    """A kind as a file has it, taken apart; TypeError for one that is not known."""
    suffix = next((each for each in (MAGNITUDE, BIASED, INVOKED) if recorded.endswith(each)), "")
    kind = next((kind for kind in KINDS if kind + suffix == recorded), None)
    if kind is None:
        raise TypeError(f"kind is {recorded!r}, not one of {', '.join(KINDS)}")
    return kind, suffix


def _recipe(fields: Mapping[str, Any]) -> Recipe:
    """TypeError for fields that do not exist, are missing, or hold what they cannot."""
    recipe = Recipe(**fields)
    count(recipe.rank, "rank")
    number(recipe.alpha, "alpha")
    flag(recipe.rank_stabilized, "rank_stabilized")
    text(recipe.init, "init")
    if not 0 <= number(recipe.dropout, "dropout") < 1:
        raise TypeError(f"dropout is {recipe.dropout!r}, but must be in [0, 1)")
    return recipe


def _runs(value: object) -> Runs:
    runs = [sizes(run, "rows") for run in listing(value, "rows")]
    if not runs or any(len(run) != 2 or run[0] >= run[1] for run in runs):
        raise TypeError(f"rows is {value!r}, not runs of rows, each as [first, one past last]")
    return [list(run) for run in runs]


def describe(update: Update, base: nn.Module) -> ModuleRecord:
    """The structure of an update of the module `base`."""
    return ModuleRecord(
        update.kind,
        {part: _part(update, part) for part in update.parts},
        tuple(update.replacements()),
        isinstance(update, ConvUpdate) and update.is_dense(base),
        update.settings(),
        isinstance(update, Magnitude),
        isinstance(update, BiasedLinear),
        update.invocation,
    )


def _part(update: Update, part: str) -> PartRecord:
    delta, rows = update.delta_of(part), _rows(update, part)
    if not delta.kind:
        return PartRecord(delta.recipe, rows)
    A, B = delta.settled()
    return PartRecord(delta.recipe, rows, delta.kind, delta.settings(), (B.shape[0], A.shape[1]))


def rows_of(runs: Runs) -> Tensor:
    """Row numbers from runs."""
    return torch.cat([torch.arange(start, stop) for start, stop in runs])


def runs_of(rows: Sequence[int]) -> Runs:
    """Runs of consecutive numbers, in order."""
    starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(rows)) if b != a + 1)]
    stops = [*starts[1:], len(rows)]
    return [[rows[start], rows[stop - 1] + 1] for start, stop in zip(starts, stops, strict=True)]


def _rows(update: Update, part: str) -> Runs | None:
    if isinstance(update, LinearUpdate) and part != WHOLE:
        return runs_of(update.rows_of(part).tolist())
    return None


def _refuse_misshapen(delta: LowRankDelta, out_features: int, in_features: int) -> None:
    """ValueError where a delta that was made as a file says comes to no pair for its matrix."""
    if any(tensor.is_meta for _, tensor in delta.stored()):
        return
    A, B = delta.settled()
    if A.shape[-1] != in_features or B.shape[-2] != out_features or A.shape[-2] != B.shape[-1]:
        raise ValueError(f"its A is {list(A.shape)} and its B {list(B.shape)}, for {out_features}×{in_features}")


def _tokens(record: ModuleRecord, module: nn.Module) -> Update:
    indices, follows = recorded_rows(record.settings)
    V, H = tensor_of(module, WHOLE).shape
    if max(indices) >= V:
        raise IndexError(f"it trained the row {max(indices)}, and there are {V}. {RESIZE}")
    return TokenUpdate(indices, H, device_of(module), follows)


def _inserted(cls: Callable[..., Update]) -> Callable[[ModuleRecord, nn.Module], Update]:
    """A bottleneck or a prefix is made by its constructor, its tensors zero."""
    return lambda record, module: cls(**record.settings, device=device_of(module))


_INSERTED = (BottleneckUpdate, MixedBottleneckUpdate, PrefixUpdate, BlockPrefixUpdate)
_MADE: dict[Kind, Callable[[ModuleRecord, nn.Module], Update]] = {
    "replacement": lambda record, module: Update({}),
    "token rows": _tokens,
    **{cls.kind: _inserted(cls) for cls in _INSERTED},
}
"""How updates that are not of low rank are made; the others are built from a `Site`."""


Rows = tuple[tuple[int, ...], str]
"""The indices of a module's trained rows, and the path of the module whose rows it shares, or nothing."""


def recorded_rows(settings: Mapping[str, Any]) -> Rows:
    """From the settings of a `TokenUpdate`; TypeError for what cannot be."""
    indices = sizes(settings.get("indices"), "indices")
    if not indices or len(set(indices)) < len(indices):
        raise TypeError(f"indices is {list(indices)}, and must name rows, each once")
    return indices, text(settings.get("follows", ""), "follows")


def check_leaders(rows: Mapping[str, Rows]) -> None:
    """TypeError where a module is recorded to share rows that no other module has, or has others of."""
    for path, (indices, follows) in rows.items():
        if follows and rows.get(follows) != (indices, ""):
            raise TypeError(f"{path} follows {follows}, which has no such rows of its own")
