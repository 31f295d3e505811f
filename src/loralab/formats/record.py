"""What an adapter's updates are made of, apart from their numbers: as data that fits into JSON, and back.

`describe` reads it off an update; `ModuleRecord.build` makes an update of that structure, its factors not yet
filled, for a module of any model. Knows nothing of files or of PEFT.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.updates.biased import BiasedLinear
from loralab.core.updates.build import is_linear, linear_shape
from loralab.core.updates.factors import Factors, LowRankDelta, Outline, Recipe, SharedMatrices
from loralab.core.updates.invoked import InvokedLinear
from loralab.core.updates.low_rank import ConvUpdate, EmbeddingUpdate, LinearUpdate
from loralab.core.updates.magnitude import Magnitude, MagnitudeConv, MagnitudeEmbedding, MagnitudeLinear
from loralab.core.updates.substitution import AttentionUpdate, ParameterUpdate, attention_shapes
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import WHOLE, Update, device_of, tensor_of
from loralab.errors import AdapterFileError
from loralab.files.values import count, flag, listing, mapping, number, sizes, text, texts
from loralab.formats.tokens import recorded_rows, settings_of_rows
from loralab.methods.adamix_adapter import MixedBottleneckUpdate
from loralab.methods.bottleneck import BottleneckUpdate
from loralab.methods.prefix.update import BlockPrefixUpdate, PrefixUpdate
from loralab.methods.table import DELTAS
from loralab.methods.trainable_tokens import RESIZE

_UNFIT = (IndexError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What making an update raises where a record, which may be any file's, and a module do not go together."""

Runs = list[list[int]]
"""Row numbers as [first, one past last] runs."""
Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class PartRecord:
    """One low-rank delta: its recipe, and its output rows where it is a part of a fused projection."""

    recipe: Recipe
    rows: Runs | None = None
    kind: str = ""
    """Of delta (`LowRankDelta.kind`); empty for a plain pair."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of a delta that is no plain pair: what `blank` takes."""
    shape: tuple[int, int] | None = None
    """And the matrix [O, I] that it updates."""

    def to_json(self) -> dict[str, Any]:
        """The recipe's fields, the rows if there are any, and what is no plain pair."""
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
            raise TypeError(f"shape is {list(shape)}, not the outputs and inputs of a delta that is no plain pair")
        out_and_in = (shape[0], shape[1]) if kind else None
        return PartRecord(_recipe(fields), None if rows is None else _runs(rows), kind, settings, out_and_in)


@dataclass(frozen=True)
class ModuleRecord:
    """One update: its kind, its factor pairs by part, and the names of the tensors it replaces in full."""

    kind: str
    parts: Mapping[str, PartRecord] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    dense: bool = False
    """For grouped convolutions: A reads every input channel, as PEFT trains it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of an inserted layer or prefix: what its constructor takes."""

    @property
    def module_kind(self) -> str:
        """The kind of module that it updates, whether or not lengths train as well, and from where on it acts."""
        return self.kind.removesuffix(WITH_MAGNITUDE).removesuffix(FROM_INVOCATION).removesuffix(WITH_BIAS)

    @property
    def invocation(self) -> tuple[int, ...]:
        """The tokens from which on it acts (aLoRA); empty where it acts at every position."""
        return sizes(self.settings[INVOCATION], INVOCATION) if self.kind.endswith(FROM_INVOCATION) else ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, empty fields left out; the parts are a list, because they are packed in this order."""
        content: dict[str, Any] = {"kind": self.kind}
        if self.parts:
            content["parts"] = [{"part": part, **record.to_json()} for part, record in self.parts.items()]
        if self.replaced:
            content["replaced"] = list(self.replaced)
        if self.settings:
            content["settings"] = dict(self.settings)
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
        return ModuleRecord(
            text(content["kind"], "kind"),
            parts,
            tuple(texts(content.get("replaced", []), "replaced")),
            flag(content.get("dense", False), "dense"),
            mapping(content.get("settings", {}), "settings"),
        )

    def build(self, path: str, module: nn.Module, shared: SharedMatrices | None = None) -> Update:
        """An update of this structure for `module`, its factors zero; AdapterFileError if it does not fit there."""
        if self.kind not in _BUILDERS or self.module_kind not in (*_ANYWHERE, kind_of(module, self.parts)):
            raise AdapterFileError(
                f"{path} is a {type(module).__name__}, but the adapter has an update of the kind {self.kind!r} for it"
            )
        try:
            return _BUILDERS[self.kind](self, module, shared)
        except _UNFIT as problem:
            raise AdapterFileError(f"the adapter's update of {path} does not fit {module}: {problem}") from problem


def _recipe(fields: Mapping[str, Any]) -> Recipe:
    """TypeError for fields that do not exist, are missing, or hold what they cannot."""
    recipe = Recipe(**fields)
    count(recipe.rank, "rank")
    number(recipe.alpha, "alpha")
    flag(recipe.rank_stabilized, "rank_stabilized")
    text(recipe.init, "init")
    if not 0 <= number(recipe.dropout, "dropout") < 1:
        raise TypeError(f"dropout is {recipe.dropout!r} and must lie in [0, 1)")
    return recipe


def _runs(value: object) -> Runs:
    runs = [sizes(run, "rows") for run in listing(value, "rows")]
    if not runs or any(len(run) != 2 or run[0] >= run[1] for run in runs):
        raise TypeError(f"rows is {value!r}, not runs of rows, each as [first, one past last]")
    return [list(run) for run in runs]


def adapted_tensors(update: Update, base: nn.Module) -> list[str]:
    """Names, within the module, of the base's tensors that an update changes or builds on: what must not be another's.

    Whoever asks about a task's head, whose tensors start at random, has asked wrongly.
    """
    if isinstance(update, (BottleneckUpdate, MixedBottleneckUpdate)):
        return [WHOLE]
    if isinstance(update, PrefixUpdate):
        return [f"{name}.weight" for name, module in base.named_modules() if module is _embeddings(base)]
    if isinstance(update, TokenUpdate):
        return []  # its rows stand in the place of the base's, and the others are no more to it than any weight
    if not len(update.parts):
        return [name for name in update.replacements() if tensor_of(base, name).is_floating_point()]
    if isinstance(update, ParameterUpdate):
        return list(update.parts)
    if isinstance(update, AttentionUpdate):
        into = [part for part in ("q", "k", "v") if part in update.parts]
        split = base.in_proj_weight is None
        names = [f"{part}_proj_weight" for part in into] if split else ["in_proj_weight"] if into else []
        return names + (["out_proj.weight"] if "out" in update.parts else [])
    return [WHOLE]


def _embeddings(base: nn.Module) -> object:
    return base.get_input_embeddings()  # type: ignore[operator]


def has_tensor(module: nn.Module, name: str) -> bool:
    """Whether the module holds a tensor of this dotted name."""
    owner, _, leaf = name.rpartition(".")
    try:
        return isinstance(getattr(module.get_submodule(owner), leaf, None), Tensor)
    except AttributeError:
        return False


def kind_of(module: nn.Module, parts: Mapping[str, object]) -> str:
    """Which kind of update serves this module, given the parts it is to update."""
    if not parts:
        return "replacement"
    for kind, serves in _SERVES:
        if serves(module):
            return kind
    return "parameters"


def describe(update: Update, base: nn.Module) -> ModuleRecord:
    """The structure of an update of the module `base`."""
    kind = next(kind for kind, cls in _CLASSES.items() if type(update) is cls)
    parts = {part: _part(update, part) for part in update.parts}
    dense = isinstance(update, ConvUpdate) and update.is_dense(base)
    settings = {name: getattr(update, name) for name in _SETTINGS.get(kind, ())}
    if isinstance(update, Magnitude) and update.through_norm:
        settings = {"through_norm": True}
    if isinstance(update, TokenUpdate):
        settings = settings_of_rows(update.indices, update.follows)
    if isinstance(update, InvokedLinear):
        settings = {INVOCATION: list(update.invocation)}
    return ModuleRecord(kind, parts, tuple(update.replacements()), dense, settings)


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


def _factors(record: PartRecord, shapes: Shapes, device: torch.device, starts_at_A: bool = False) -> Factors:
    """Zero factors; made on no device first, so that no random number is drawn."""
    if record.kind:
        raise TypeError(f"a delta of the kind {record.kind!r} is for dense layers only")
    factors = Factors(record.recipe, *shapes, torch.device("meta"), starts_at_A)
    _zero(factors, device)
    return factors


def delta_of_record(
    record: PartRecord, out_features: int, in_features: int, device: torch.device, shared: SharedMatrices | None
) -> LowRankDelta:
    """A delta of a dense layer, its own tensors zero."""
    if not record.kind:
        shapes = (record.recipe.rank, in_features), (out_features, record.recipe.rank)
        return _factors(record, shapes, device)
    meta = torch.device("meta")
    outline = Outline(record.recipe, out_features, in_features, meta, shared, record.settings)
    try:
        delta = DELTAS[record.kind].blank(outline)
        _zero(delta, device)
        _refuse_misshapen(delta, out_features, in_features)
    except _UNFIT as problem:
        raise AdapterFileError(
            f"a delta of the kind {record.kind!r} cannot be made as recorded: {problem}"
        ) from problem
    return delta


def _refuse_misshapen(delta: LowRankDelta, out_features: int, in_features: int) -> None:
    """ValueError where a delta that was made as a file says comes to no pair for its matrix."""
    if any(tensor.is_meta for _, tensor in delta.stored()):
        return
    A, B = delta.settled()
    if A.shape[-1] != in_features or B.shape[-2] != out_features or A.shape[-2] != B.shape[-1]:
        raise ValueError(f"its A is {list(A.shape)} and its B {list(B.shape)}, for {out_features}×{in_features}")


def _zero(delta: LowRankDelta, device: torch.device) -> None:
    """Put a delta's own tensors on this device, zero; what it shares stays as it is."""
    delta.to_empty(device=device, recurse=False)
    with torch.no_grad():
        for _, tensor in delta.stored():
            tensor.zero_()


def _linear(record: ModuleRecord, module: nn.Module, shared: SharedMatrices | None) -> Update:
    O, I = linear_shape(module)  # noqa: E741
    device = device_of(module)
    unplaced = [part for part, each in record.parts.items() if (each.rows is None) != (part == WHOLE)]
    if unplaced:
        raise IndexError(f"the record does not say which rows of the whole are those of {', '.join(unplaced)}")
    rows = {part: rows_of(each.rows).to(device) for part, each in record.parts.items() if each.rows is not None}
    if any(int(index.max()) >= O for index in rows.values()):
        raise IndexError(f"it updates rows beyond the {O} there are")
    parts = {
        part: delta_of_record(each, len(rows.get(part, range(O))), I, device, shared)
        for part, each in record.parts.items()
    }
    transposed = not hasattr(module, "out_features")
    if record.kind.endswith(WITH_MAGNITUDE):
        return MagnitudeLinear(parts, O, rows, transposed, bool(record.settings.get("through_norm")))
    if record.kind.endswith(WITH_BIAS):
        return BiasedLinear(parts, O, rows, transposed)
    if record.invocation:
        return InvokedLinear(parts, O, rows, transposed, record.invocation)
    return LinearUpdate(parts, O, rows, stored_transposed=transposed)


def _embedding(record: ModuleRecord, module: nn.Module, shared: SharedMatrices | None) -> Update:
    V, D = tensor_of(module, WHOLE).shape
    whole, R = record.parts[WHOLE], record.parts[WHOLE].recipe.rank
    parts = {WHOLE: _factors(whole, ((R, V), (D, R)), device_of(module), starts_at_A=True)}
    return MagnitudeEmbedding(parts, D) if record.kind.endswith(WITH_MAGNITUDE) else EmbeddingUpdate(parts)


def _conv(record: ModuleRecord, module: nn.Module, shared: SharedMatrices | None) -> Update:
    W, groups = tensor_of(module, WHOLE), int(getattr(module, "groups", 1))
    whole, R = record.parts[WHOLE], record.parts[WHOLE].recipe.rank
    channels = W.shape[1] * (groups if record.dense else 1)
    shapes = (groups * R, channels, *W.shape[2:]), (W.shape[0], R, *(1 for _ in W.shape[2:]))
    parts = {WHOLE: _factors(whole, shapes, device_of(module))}
    return MagnitudeConv(parts, W.shape[0]) if record.kind.endswith(WITH_MAGNITUDE) else ConvUpdate(parts)


def _attention(record: ModuleRecord, module: nn.Module, shared: SharedMatrices | None) -> Update:
    shapes, parts = attention_shapes(module), {}
    for part, each in record.parts.items():
        O, I = shapes[part]  # noqa: E741
        parts[part] = _factors(each, ((each.recipe.rank, I), (O, each.recipe.rank)), device_of(module))
    return AttentionUpdate(parts)


def _parameters(record: ModuleRecord, module: nn.Module, shared: SharedMatrices | None) -> Update:
    transposed = bool(getattr(module, "is_transposed", False))
    parts = {}
    for name, each in record.parts.items():
        *experts, O, I = tensor_of(module, name).shape  # noqa: E741
        if transposed and experts:
            O, I = I, O  # noqa: E741
        shapes = (*experts, each.recipe.rank, I), (*experts, O, each.recipe.rank)
        parts[name] = _factors(each, shapes, device_of(module))
    return ParameterUpdate(parts, transposed)


def _inserted(record: ModuleRecord, module: nn.Module, shared: SharedMatrices | None) -> Update:
    """A bottleneck or a prefix: made by its constructor, its tensors zero."""
    make: Callable[..., Update] = _CLASSES[record.kind]
    return make(**record.settings, device=device_of(module))


def _tokens(record: ModuleRecord, module: nn.Module, shared: SharedMatrices | None) -> Update:
    indices, follows = recorded_rows(record.settings)
    V, H = tensor_of(module, WHOLE).shape
    if max(indices) >= V:
        raise IndexError(f"it trained the row {max(indices)}, and there are {V}. {RESIZE}")
    return TokenUpdate(indices, H, device_of(module), follows)


WITH_MAGNITUDE = " with magnitude"
"""What the kinds of update end in that have trained lengths (DoRA)."""
FROM_INVOCATION = " from its invocation on"
"""What the kind of update ends in that acts from certain tokens on (aLoRA)."""
WITH_BIAS = " with a bias of its own"
"""What the kind of update ends in that brings a bias to a layer without one."""
INVOCATION = "invocation"
_SETTINGS = {
    "bottleneck": ("width", "size", "style"),
    "mixed bottleneck": ("width", "size", "experts", "shared_side"),
    "prefix": ("prefix", "infix", "width", "keeps_first"),
    "prefix of a block": ("positions", "width"),
}
"""Kind of insertion -> the names that its constructor takes, which it keeps as attributes."""
TOKENS = "token rows"
"""The kind of update that replaces single rows."""
_ANYWHERE = ("parameters", TOKENS, *_SETTINGS)
_CLASSES: dict[str, type[Update]] = {
    "linear": LinearUpdate,
    f"linear{WITH_MAGNITUDE}": MagnitudeLinear,
    f"linear{FROM_INVOCATION}": InvokedLinear,
    f"linear{WITH_BIAS}": BiasedLinear,
    f"embedding{WITH_MAGNITUDE}": MagnitudeEmbedding,
    f"conv{WITH_MAGNITUDE}": MagnitudeConv,
    "embedding": EmbeddingUpdate,
    "conv": ConvUpdate,
    "attention": AttentionUpdate,
    "parameters": ParameterUpdate,
    "replacement": Update,
    TOKENS: TokenUpdate,
    "bottleneck": BottleneckUpdate,
    "mixed bottleneck": MixedBottleneckUpdate,
    "prefix": PrefixUpdate,
    "prefix of a block": BlockPrefixUpdate,
}
_SERVES: list[tuple[str, Callable[[nn.Module], bool]]] = [
    ("attention", lambda module: isinstance(module, nn.MultiheadAttention)),
    ("embedding", lambda module: isinstance(module, nn.Embedding)),
    ("conv", lambda module: isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))),
    ("linear", is_linear),
]
_BUILDERS: dict[str, Callable[[ModuleRecord, nn.Module, SharedMatrices | None], Update]] = {
    **dict.fromkeys(("linear", f"linear{WITH_MAGNITUDE}", f"linear{FROM_INVOCATION}", f"linear{WITH_BIAS}"), _linear),
    **dict.fromkeys(("embedding", f"embedding{WITH_MAGNITUDE}"), _embedding),
    **dict.fromkeys(("conv", f"conv{WITH_MAGNITUDE}"), _conv),
    "attention": _attention,
    "parameters": _parameters,
    TOKENS: _tokens,
    "replacement": lambda record, module, shared: Update({}),
    **dict.fromkeys(_SETTINGS, _inserted),
}
