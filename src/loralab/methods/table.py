"""From settings, as flags and files give them, to the specification of a method: one row for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loralab.core.plan import JointMethod, Method
from loralab.core.updates.factors import LowRankDelta
from loralab.errors import SpecError
from loralab.methods.adamix import AdaMix, Experts
from loralab.methods.adamix_adapter import AdaMixAdapter
from loralab.methods.bitfit import BitFit
from loralab.methods.bottleneck import BottleneckAdapter
from loralab.methods.frozen_a import FrozenA
from loralab.methods.full import FullFineTune
from loralab.methods.galore import GaLore
from loralab.methods.grass import Grass
from loralab.methods.lora import LoRA
from loralab.methods.lora_xs import CoreMatrix, LoRAXS
from loralab.methods.multilora import GatedModules, MultiLoRA
from loralab.methods.pissa import PrincipalFactors
from loralab.methods.prefix.method import PrefixEmbedding, PrefixLayer
from loralab.methods.settings import MethodSettings
from loralab.methods.tied import TiedLoRA, TiedPair
from loralab.methods.vera import ScaledProjections, VeRA


def specification(settings: MethodSettings) -> Method:
    """The method that the settings describe; several joined by `+` are one `JointMethod`. Raises SpecError."""
    problems = settings.method_problems()
    if problems:
        raise SpecError("; ".join(problems))
    specs = tuple(METHODS[name].make(settings) for name in settings.method.split("+"))
    return specs[0] if len(specs) == 1 else JointMethod(specs)


def _where(settings: MethodSettings) -> dict[str, Any]:
    """Which modules to adapt, and what trains in full beside them: the same for every low-rank method."""
    return {
        "targets": settings.targets,
        "exclude": settings.exclude or (),
        "layers": settings.layers,
        "bias": settings.bias,
        "modules_to_save": settings.modules_to_save,
    }


def _lora(**changes: Any) -> Callable[[MethodSettings], Method]:
    """LoRA, or what differs from it by these fields."""

    def make(settings: MethodSettings) -> Method:
        init = changes.get("init", settings.init)
        if init == "pissa" and settings.pissa_iterations is not None:
            init = f"pissa-{settings.pissa_iterations}"
        fields: dict[str, Any] = {
            "rank": settings.rank,
            "alpha": settings.alpha,
            "dropout": settings.dropout,
            "rank_pattern": settings.rank_pattern or {},
            "alpha_pattern": settings.alpha_pattern or {},
            "rank_stabilized": settings.rank_stabilized,
            "trainable_token_indices": settings.trainable_token_indices,
            "invocation_tokens": settings.invocation_tokens,
        }
        return LoRA(**fields | _where(settings) | changes | {"init": init})

    return make


def _lora_fa(settings: MethodSettings) -> Method:
    return _lora(freeze_a=True, nearest_step=settings.nearest_step)(settings)


def _vera(settings: MethodSettings) -> Method:
    return VeRA(
        settings.rank,
        settings.dropout,
        d_initial=settings.d_initial,
        projection_seed=settings.projection_seed,
        **_where(settings),
    )


def _multilora(settings: MethodSettings) -> Method:
    return MultiLoRA(
        settings.rank,
        settings.alpha,
        settings.dropout,
        modules=settings.modules,
        gate=settings.gate,
        rank_stabilized=settings.rank_stabilized,
        **_where(settings),
    )


def _tied(settings: MethodSettings) -> Method:
    return TiedLoRA(settings.rank, dropout=settings.dropout, train=settings.tied_train, **_where(settings))


def _adamix(settings: MethodSettings) -> Method:
    return AdaMix(
        settings.rank,
        settings.alpha,
        settings.dropout,
        experts=settings.experts,
        share=settings.share,
        **_where(settings),
    )


def _bottleneck_where(settings: MethodSettings) -> dict[str, Any]:
    """Size and places of a bottleneck: the same for all kinds."""
    names = ("size", "drop_layers", "targets", "layers", "modules_to_save")
    return {name: getattr(settings, name) for name in names} | {"exclude": settings.exclude or ()}


def _adamix_adapter(settings: MethodSettings) -> Method:
    return AdaMixAdapter(experts=settings.experts, share=settings.share, **_bottleneck_where(settings))


def _lora_xs(settings: MethodSettings) -> Method:
    return LoRAXS(settings.rank, settings.alpha, settings.dropout, **_where(settings))


def _prefix(kind: type[PrefixEmbedding] | type[PrefixLayer]) -> Callable[[MethodSettings], Method]:
    return lambda settings: kind(settings.prefix, settings.infix, settings.modules_to_save)


def _bottleneck(style: str) -> Callable[[MethodSettings], Method]:
    return lambda settings: BottleneckAdapter(style=style, **_bottleneck_where(settings))


def _grass(settings: MethodSettings) -> Method:
    return Grass(
        modules_to_save=settings.modules_to_save,
        rank=settings.rank,
        refresh_every=settings.refresh_every,
        projection_scale=settings.projection_scale,
        state_on_refresh=settings.state_on_refresh or "reset",
        refresh_warmup=settings.refresh_warmup,
        row_choice=settings.row_choice,
        largest_factor=settings.largest_factor,
    )


def _galore(settings: MethodSettings) -> Method:
    return GaLore(
        modules_to_save=settings.modules_to_save,
        rank=settings.rank,
        refresh_every=settings.refresh_every,
        projection_scale=settings.projection_scale,
        state_on_refresh=settings.state_on_refresh or "keep",
        refresh_warmup=settings.refresh_warmup,
    )


@dataclass(frozen=True)
class Row:
    """One method: how settings make its specification, what that is, and the delta that is its own."""

    make: Callable[[MethodSettings], Method]
    spec: type[Any]
    delta: type[LowRankDelta] | None = None
    """Of a low-rank method whose update is no plain pair."""


METHODS: dict[str, Row] = {
    "lora": Row(_lora(), LoRA),
    "full": Row(lambda settings: FullFineTune(modules_to_save=settings.modules_to_save), FullFineTune),
    "top2": Row(lambda settings: FullFineTune(top_layers=2, modules_to_save=settings.modules_to_save), FullFineTune),
    "bitfit": Row(lambda settings: BitFit(settings.modules_to_save), BitFit),
    "prefix-embed": Row(_prefix(PrefixEmbedding), PrefixEmbedding),
    "prefix-layer": Row(_prefix(PrefixLayer), PrefixLayer),
    "adapter-h": Row(_bottleneck("houlsby"), BottleneckAdapter),
    "adapter-l": Row(_bottleneck("lin"), BottleneckAdapter),
    "adapter-p": Row(_bottleneck("pfeiffer"), BottleneckAdapter),
    "rslora": Row(_lora(rank_stabilized=True), LoRA),
    "lora-fa": Row(_lora_fa, LoRA, FrozenA),
    "dora": Row(_lora(magnitude=True), LoRA),
    "pissa": Row(_lora(init="pissa"), LoRA, PrincipalFactors),
    "vera": Row(_vera, VeRA, ScaledProjections),
    "tied": Row(_tied, TiedLoRA, TiedPair),
    "multilora": Row(_multilora, MultiLoRA, GatedModules),
    "adamix": Row(_adamix, AdaMix, Experts),
    "adamix-adapter": Row(_adamix_adapter, AdaMixAdapter),
    "lora-xs": Row(_lora_xs, LoRAXS, CoreMatrix),
    "grass": Row(_grass, Grass),
    "galore": Row(_galore, GaLore),
}

SPECS: dict[str, type[Any]] = {row.spec.__name__: row.spec for row in METHODS.values()}
"""What loralab.json calls a specification → the specification."""
DELTAS: dict[str, type[LowRankDelta]] = {row.delta.kind: row.delta for row in METHODS.values() if row.delta is not None}
"""What it calls a delta that is no plain pair → the delta."""
