"""From a module and recipes to the update that adapts it, fresh or of a file: one ladder of the kinds of modules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from loralab.core.updates.factors import Factors, LowRankDelta, Recipe, Spot, check_rank
from loralab.core.updates.low_rank import BiasedLinear, ConvUpdate, EmbeddingUpdate, InvokedLinear, LinearUpdate
from loralab.core.updates.magnitude import Magnitude, MagnitudeConv, MagnitudeEmbedding, MagnitudeLinear
from loralab.core.updates.substitution import ATTENTION_PARTS, AttentionUpdate, ParameterUpdate, attention_shapes
from loralab.core.updates.update import WHOLE, Kind, Update
from loralab.errors import SpecError, TargetError
from loralab.nn.dense import dense_shape, is_dense, is_stored_transposed, weight_OI
from loralab.nn.tensors import device_of, tensor_of
from loralab.nn.trial import is_convolution, is_lookup

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layout = Mapping[str, Tensor]
"""Part name → the output rows of a fused projection that belong to it."""


Maker = Callable[[Spot], LowRankDelta]
"""Makes the low-rank update of one matrix."""


@dataclass(frozen=True)
class Site:
    """One module to adapt: its path, itself, and a recipe for each of its parts (`weight` when it is one)."""

    path: str
    module: nn.Module
    recipes: Mapping[str, Recipe]
    layout: Layout | None = None
    make: Maker | None = None
    """How the update of a dense layer's matrix is made; None: a plain pair A, B."""
    magnitude: bool = False
    """Whether the length of every output's weights trains as well (DoRA)."""
    through_norm: bool = False
    invocation: tuple[int, ...] = ()
    """The tokens from which on the update acts (aLoRA)."""
    biased: bool = False
    """Whether the update brings a bias to a layer that has none."""
    any_rank: bool = False
    """Whether a rank above the matrix's own width is taken: of a layer that nobody named."""
    dense: bool = False
    """For grouped convolutions: A reads every input channel, as PEFT trains it."""
    blank: bool = False
    """Whether the values come from a file: nothing is drawn, nothing is refused that only a fresh update minds."""

    @property
    def device(self) -> torch.device:
        """Where the update's parameters belong: beside the module's own."""
        return device_of(self.module)

    def factors(self, part: str, out_features: int, in_features: int) -> Factors:
        """Fresh factors A [R, I] and B [O, R] for one part."""
        rank = self.recipes[part].rank
        self.check_rank(part, self.name_of(part), out_features, in_features)
        return self.pair(part, (rank, in_features), (out_features, rank))

    def pair(self, part: str, A_shape: tuple[int, ...], B_shape: tuple[int, ...], starts_at_A: bool = False) -> Factors:
        """Factors of these shapes for one part: at their start, or zero where the site is blank."""
        make = Factors.zeros if self.blank else Factors.drawn
        return make(self.recipes[part], A_shape, B_shape, self.device, starts_at_A)

    def check_rank(self, part: str, name: str, rows: int, columns: int) -> None:
        """SpecError for a rank above the width of the matrix [rows, columns], where the layer is targeted by name."""
        if not (self.any_rank or self.blank):
            check_rank(self.recipes[part], name, rows, columns)

    def made_by(self, make: Maker | None) -> "Site":
        """This site with the updates of its matrices made in another way."""
        return replace(self, make=make)

    def name_of(self, part: str) -> str:
        """The path, with the part if the module has several."""
        return self.path if part == WHOLE else f"{self.path}[{part}]"

    def delta(self, part: str, spot: Spot) -> LowRankDelta:
        """The fresh update of one matrix of a dense layer."""
        return self.factors(part, spot.out_features, spot.in_features) if self.make is None else self.make(spot)

    def refuse_special(self, with_magnitude: bool = False) -> None:
        """An error for anything but plain LoRA, which other modules than dense layers do not have."""
        special = self.make is not None or self.invocation or self.biased
        if special or (self.magnitude and not with_magnitude):
            raise TargetError(
                f"{self.path} is a {type(self.module).__name__}, which only plain LoRA adapts; this method is for "
                "dense layers: leave the module out with exclude"
            )

    def refuse_dropout(self, why: str) -> None:
        """An error if any part of a fresh update asks for dropout."""
        if not self.blank and any(recipe.dropout for recipe in self.recipes.values()):
            raise SpecError(f"{self.path} cannot have dropout: {why}; set dropout=0 or leave this target out")


def build(site: Site, kind: Kind | None = None) -> Update:
    """The update that adapts this site: as a module of its own kind, or of the kind that a file says.

    Raises TargetError where the site asks for what modules of this kind do not have.
    """
    if WHOLE in site.module.__dict__ and not site.blank and (site.magnitude or site.make is not None):
        raise TargetError(
            f"{site.path} gets its weight anew before each forward pass (weight_norm by hooks, pruning), so "
            "a method that starts from the weight would start from an old one; make it plain first, or use plain LoRA"
        )
    builder = _LADDER[kind or kind_of(site.module)][1]
    return builder(site)


def kind_of(module: nn.Module) -> Kind:
    """What kind of low-rank update adapts this module; `parameters` where it is none as a whole."""
    return next(kind for kind, (serves, _) in _LADDER.items() if serves(module))


def can_adapt(module: nn.Module) -> bool:
    """Whether a low-rank update adapts this module as a whole."""
    return kind_of(module) != "parameters"


def is_embedding(module: nn.Module) -> bool:
    """An embedding that looks up what it is given."""
    return isinstance(module, nn.Embedding) and is_lookup(module)


def is_conv(module: nn.Module) -> bool:
    """A convolution that computes what its attributes say."""
    return isinstance(module, CONVOLUTIONS) and is_convolution(module)


def spots(site: Site) -> dict[str, Spot]:
    """The matrices of a dense layer that the site's recipes are for, by part."""
    out_features, in_features = dense_shape(site.module)
    if WHOLE in site.recipes:
        return {WHOLE: _spot(site, WHOLE, out_features, in_features, None)}
    layout = _layout(site, out_features, in_features)
    return {part: _spot(site, part, len(layout[part]), in_features, layout[part]) for part in site.recipes}


def _spot(site: Site, part: str, out_features: int, in_features: int, rows: Tensor | None) -> Spot:
    def weight() -> Tensor:
        W_OI = weight_OI(site.module)
        return W_OI if rows is None else W_OI[rows.to(W_OI.device)]

    return Spot(site.name_of(part), site.recipes[part], out_features, in_features, site.device, weight, site.module)


def _linear(site: Site) -> Update:
    out_features, in_features = dense_shape(site.module)
    transposed = is_stored_transposed(site.module)
    rows: dict[str, Tensor] = {}
    if WHOLE not in site.recipes:
        layout = _layout(site, out_features, in_features)
        rows = {part: layout[part].to(site.device) for part in site.recipes}
    parts = {part: site.delta(part, spot) for part, spot in spots(site).items()}
    if site.magnitude:
        return _with_lengths(site, MagnitudeLinear(parts, out_features, rows, transposed, site.through_norm))
    if site.biased:
        return BiasedLinear(parts, out_features, rows, transposed)
    if site.invocation:
        return InvokedLinear(parts, out_features, rows, transposed, site.invocation)
    return LinearUpdate(parts, out_features, rows, transposed)


def _with_lengths(site: Site, update: Magnitude) -> Update:
    """DoRA: the lengths are those of the base, or come with the other values."""
    return update if site.blank else update.start(site.module)


def _layout(site: Site, out_features: int, in_features: int) -> Layout:
    """The site's own layout; a projection to three times its width, of a model nobody knows, is q, k, v in turn."""
    layout = site.layout
    if layout is None and out_features == 3 * in_features:
        thirds = torch.arange(out_features).chunk(3)
        layout = dict(zip(("q", "k", "v"), thirds, strict=True))
    unknown = [part for part in site.recipes if layout is None or part not in layout]
    if layout is None or unknown:
        parts = f"has the parts {', '.join(layout)}" if layout else "is not known to be a fused projection"
        raise TargetError(
            f"{site.path} has no parts {', '.join(site.recipes)}: it {parts}; name the whole module, or describe its "
            "rows with fused={...}"
        )
    beyond = [part for part in site.recipes if bool((layout[part] >= out_features).any())]
    if beyond:
        raise TargetError(f"{site.path}[{','.join(beyond)}] updates rows beyond the {out_features} there are")
    return layout


def _embedding(site: Site) -> Update:
    _only_whole(site)
    V, D = tensor_of(site.module, WHOLE).shape
    if getattr(site.module, "max_norm", None) is not None and not site.blank:
        raise TargetError(
            f"{site.path} is an embedding with max_norm, which rewrites its own weight as it runs: leave it out with "
            "exclude"
        )
    rank = site.recipes[WHOLE].rank
    site.check_rank(WHOLE, site.path, V, D)
    site.refuse_special(with_magnitude=True)
    parts = {WHOLE: site.pair(WHOLE, (rank, V), (D, rank), starts_at_A=True)}
    return _with_lengths(site, MagnitudeEmbedding(parts, D)) if site.magnitude else EmbeddingUpdate(parts)


def _conv(site: Site) -> Update:
    _only_whole(site)
    W, rank = tensor_of(site.module, WHOLE), site.recipes[WHOLE].rank
    site.check_rank(WHOLE, site.path, W.shape[0], W[0].numel())
    groups = int(getattr(site.module, "groups", 1))
    A_shape = (groups * rank, W.shape[1] * (groups if site.dense else 1), *W.shape[2:])
    B_shape = (W.shape[0], rank, *(1 for _ in W.shape[2:]))
    site.refuse_special(with_magnitude=True)
    if site.magnitude:
        _refuse_unscalable(site, groups)
    parts = {WHOLE: site.pair(WHOLE, A_shape, B_shape)}
    return _with_lengths(site, MagnitudeConv(parts, W.shape[0])) if site.magnitude else ConvUpdate(parts)


def _refuse_unscalable(site: Site, groups: int) -> None:
    if groups > 1:
        raise TargetError(
            f"{site.path} is a convolution in {groups} groups, whose A and B are not the factors of one matrix with "
            "rows to scale: leave it out with exclude, or adapt all modules without magnitude"
        )
    site.refuse_dropout("a convolution with trained lengths runs with its weights substituted")


def _attention(site: Site) -> Update:
    site.refuse_special()
    site.refuse_dropout("nn.MultiheadAttention multiplies its weights itself, which leaves no path for dropout")
    shapes = attention_shapes(site.module)
    recipes = dict.fromkeys(ATTENTION_PARTS, site.recipes[WHOLE]) if WHOLE in site.recipes else site.recipes
    expanded = replace(site, recipes=recipes)
    unknown = [part for part in recipes if part not in shapes]
    if unknown:
        raise TargetError(f"{site.path} has no parts {', '.join(unknown)}; it has {', '.join(shapes)}")
    return AttentionUpdate({part: expanded.factors(part, *shapes[part]) for part in recipes})


def _raw_parameters(site: Site) -> Update:
    site.refuse_special()
    site.refuse_dropout("a raw parameter has no input of its own to drop from")
    transposed = bool(getattr(site.module, "is_transposed", False))
    return ParameterUpdate({name: _raw_factors(site, name, transposed) for name in site.recipes}, transposed)


def _raw_factors(site: Site, name: str, transposed: bool) -> Factors:
    shape = tensor_of(site.module, name).shape
    rank, experts = site.recipes[name].rank, shape[:-2]
    O, I = (shape[-1], shape[-2]) if transposed and experts else (shape[-2], shape[-1])  # noqa: E741
    site.check_rank(name, f"{site.path}.{name}", O, I)
    return site.pair(name, (*experts, rank, I), (*experts, O, rank))


def _only_whole(site: Site) -> None:
    if WHOLE not in site.recipes:
        raise TargetError(
            f"{site.path} is a {type(site.module).__name__}, which has no parts {', '.join(site.recipes)}; write "
            f"{site.path}"
        )


_LADDER: dict[Kind, tuple[Callable[[nn.Module], bool], Callable[[Site], Update]]] = {
    "attention": (lambda module: isinstance(module, nn.MultiheadAttention), _attention),
    "embedding": (is_embedding, _embedding),
    "conv": (is_conv, _conv),
    "linear": (is_dense, _linear),
    "parameters": (lambda module: True, _raw_parameters),
}
"""Kind → which modules it is for, the first that serves, and how an update of it is made."""
