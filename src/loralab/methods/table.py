"""The methods: one row each, which says everything about a method that is not in its own file.

A new method is its file and its row here. The flag `--method`, the name that an adapter's files give back, the help
and the table of the README all come from the rows. Loads no torch, so that `--help` is quick: a row names its classes,
and `registry.py` imports them when they are used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_HEAD = ("modules_to_save",)
_PLACES = ("targets", "exclude", "layers", *_HEAD)
_PLAIN = (*_PLACES, "rank", "dropout", "bias")
_SCALED = (*_PLAIN, "alpha")
_LORA = (
    *(*_SCALED, "rank_pattern", "alpha_pattern", "rank_stabilized", "trainable_token_indices", "invocation_tokens"),
    *("init", "pissa_iterations", "lora_plus_ratio"),
)
_BOTTLENECK = (*_PLACES, "size", "drop_layers")
_PROJECTED = (*_HEAD, "rank", "refresh_every", "projection_scale", "state_on_refresh", "refresh_warmup")


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method."""

    spec: str | type[Any]
    """Its specification: `module:Class`, or the class itself."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that set it apart from other methods of the same class."""
    called: Mapping[str, str | None] = field(default_factory=dict)
    """Field → the setting that it takes, where that has another name; None: no setting."""
    delta: str | type[Any] | None = None
    """Its LowRankDelta where that is not a plain pair: `module:Class`, or the class itself."""
    settings: tuple[str, ...] = _SCALED
    """The settings that it takes, but for those that `fixed` decides; by default a low-rank method's."""
    sized_by: Literal["rank", "size", "positions"] | None = None
    """What makes it larger or smaller: a rank, a bottleneck's width, a number of inserted positions."""
    alone: bool = False
    """It is an optimizer of the whole model, with which nothing can be combined."""
    trains_weights: bool = False
    """It trains weights of the model itself, which therefore cannot be frozen in four bits."""
    by_chance: bool = False
    """Each training pass draws its experts: two passes over one batch differ, and a loss can ask them to agree."""
    takes_tokens: bool = False
    """It can train single rows of embeddings beside its own updates."""
    takes_invocation: bool = False
    """It can act from an invocation on (aLoRA)."""
    trains: str
    """What trains, in a few words."""
    paper: str = "2106.09685"
    """Where it was published, on arXiv."""

    @property
    def spec_name(self) -> str:
        """What the specification's class is called."""
        return self.spec.rpartition(":")[2] if isinstance(self.spec, str) else self.spec.__name__

    @property
    def python(self) -> str:
        """How Python says it: `ll.LoRA(magnitude=True)`."""
        fixed = ", ".join(f"{name}={value!r}" for name, value in self.fixed.items() if value is not None)
        return f"ll.{self.spec_name}({fixed})".replace("'", '"')

    @property
    def takes(self) -> tuple[str, ...]:
        """The settings that change what it does."""
        return tuple(name for name in self.settings if name not in self.fixed)

    def is_of(self, spec: Mapping[str, Any]) -> bool:
        """Whether a specification, as JSON with its class under `type`, is this method's."""
        return spec.get("type") == self.spec_name and all(
            _matches(spec.get(key), value) for key, value in self.fixed.items()
        )


def _matches(value: Any, fixed: Any) -> bool:
    """Also a variant: `pissa-4` is `pissa`."""
    return bool(value == fixed) or (isinstance(fixed, str) and str(value).startswith(f"{fixed}-"))


def _lora(paper: str, trains: str, called: Mapping[str, str | None] | None = None, **row: Any) -> MethodRow:
    """A row of LoRA, or of what differs from it by a field."""
    row = {"settings": _LORA, "paper": paper, "trains": trains} | row
    row["called"] = {"init": "start", "nearest_step": None} | dict(called or {})
    return MethodRow(spec="loralab.methods.lora:LoRA", sized_by="rank", takes_tokens=True, **row)


def _bottleneck(style: str, paper: str, trains: str) -> MethodRow:
    spec = "loralab.methods.bottleneck:BottleneckAdapter"
    return MethodRow(
        spec=spec, fixed={"style": style}, settings=_BOTTLENECK, sized_by="size", paper=paper, trains=trains
    )


METHODS: dict[str, MethodRow] = {
    "lora": _lora("2106.09685", "B and A beside chosen weights", takes_invocation=True),
    "full": MethodRow(
        spec="loralab.methods.full:FullFineTune",
        fixed={"top_layers": None},
        settings=_HEAD,
        trains_weights=True,
        trains="a copy of every weight",
    ),
    "top2": MethodRow(
        spec="loralab.methods.full:FullFineTune",
        fixed={"top_layers": 2},
        settings=_HEAD,
        trains_weights=True,
        trains="a copy of the last two blocks",
    ),
    "bitfit": MethodRow(spec="loralab.methods.bitfit:BitFit", settings=_HEAD, paper="2106.10199", trains="every bias"),
    "prefix-embed": MethodRow(
        spec="loralab.methods.prefix.method:PrefixEmbedding",
        settings=(*_HEAD, "prefix", "infix"),
        sized_by="positions",
        paper="2101.00190",
        trains="embeddings before and after the prompt",
    ),
    "prefix-layer": MethodRow(
        spec="loralab.methods.prefix.method:PrefixLayer",
        settings=(*_HEAD, "prefix", "infix"),
        sized_by="positions",
        paper="2101.00190",
        trains="the activations at these positions before every block",
    ),
    "adapter-h": _bottleneck("houlsby", "1902.00751", "small layers behind both sublayers"),
    "adapter-l": _bottleneck("lin", "2004.03829", "a small layer and its norm behind the MLP"),
    "adapter-p": _bottleneck("pfeiffer", "2005.00247", "a small layer behind the MLP"),
    "rslora": _lora("2312.03732", "B and A, scaled by α/√r", fixed={"rank_stabilized": True}, takes_invocation=True),
    "lora-fa": _lora(
        "2308.03303",
        "B alone",
        called={"nearest_step": "nearest_step"},
        settings=(*_LORA, "nearest_step"),
        fixed={"freeze_a": True},
        delta="loralab.methods.frozen_a:FrozenA",
        takes_invocation=True,
    ),
    "pissa": _lora(
        "2404.02948",
        "the principal part of W; W stays untouched",
        fixed={"init": "pissa"},
        delta="loralab.methods.pissa:PrincipalFactors",
        takes_invocation=True,
    ),
    "dora": _lora("2402.09353", "B, A and the length of every output's weights", fixed={"magnitude": True}),
    "vera": MethodRow(
        spec="loralab.methods.vera:VeRA",
        settings=(*_PLAIN, "d_initial", "projection_seed"),
        delta="loralab.methods.vera:ScaledProjections",
        sized_by="rank",
        paper="2310.11454",
        trains="two vectors a layer around one random pair for all",
    ),
    "tied": MethodRow(
        spec="loralab.methods.tied:TiedLoRA",
        called={"train": "tied_train", "alpha": None},
        settings=(*_PLAIN, "tied_train"),
        delta="loralab.methods.tied:TiedPair",
        sized_by="rank",
        paper="2311.09578",
        trains="one A and B for all layers, two vectors in each",
    ),
    "multilora": MethodRow(
        spec="loralab.methods.multilora:MultiLoRA",
        settings=(*_SCALED, "modules", "gate", "rank_stabilized", "lora_plus_ratio"),
        delta="loralab.methods.multilora:GatedModules",
        sized_by="rank",
        paper="2311.11501",
        trains="several LoRA in parallel behind gates from zero",
    ),
    "adamix": MethodRow(
        spec="loralab.methods.adamix:AdaMix",
        settings=(*_SCALED, "experts", "share", "lora_plus_ratio"),
        delta="loralab.methods.adamix:Experts",
        sized_by="rank",
        by_chance=True,
        paper="2205.12410",
        trains="experts drawn at random, averaged in the end",
    ),
    "adamix-adapter": MethodRow(
        spec="loralab.methods.adamix_adapter:AdaMixAdapter",
        settings=(*_BOTTLENECK, "experts", "share"),
        sized_by="size",
        by_chance=True,
        paper="2205.12410",
        trains="the same with inserted layers",
    ),
    "lora-xs": MethodRow(
        spec="loralab.methods.lora_xs:LoRAXS",
        settings=_SCALED,
        delta="loralab.methods.lora_xs:CoreMatrix",
        sized_by="rank",
        paper="2405.17604",
        trains="an r×r matrix between W's frozen principal directions",
    ),
    "grass": MethodRow(
        spec="loralab.methods.projected:Grass",
        settings=(*_PROJECTED, "row_choice", "largest_factor"),
        alone=True,
        trains_weights=True,
        paper="2406.17660",
        trains="every weight, by gradients of chosen rows",
    ),
    "galore": MethodRow(
        spec="loralab.methods.projected:GaLore",
        settings=_PROJECTED,
        alone=True,
        trains_weights=True,
        paper="2403.03507",
        trains="every weight, by projected gradients",
    ),
}
"""By the name that `--method` takes. Where two rows of one class fit a specification equally well, the later one names
it: `dora` also when it starts as PiSSA."""

METHOD_NAMES = tuple(METHODS)
"""The methods of the paper (§5.1) and its neighbours; several at once are joined by `+`."""


def names_sized_by(size: str) -> tuple[str, ...]:
    """The methods that a rank, a bottleneck's size or a number of positions makes larger or smaller."""
    return tuple(name for name, row in METHODS.items() if row.sized_by == size)


def rows_of(method: str) -> tuple[MethodRow, ...]:
    """The rows of a method, or of several joined by `+`; unknown names are left out."""
    return tuple(METHODS[name] for name in method.split("+") if name in METHODS)


def method_name(spec: Mapping[str, Any]) -> str:
    """What the command line calls a specification, which is given as JSON."""
    if spec.get("type") == "JointMethod":
        return "+".join(method_name(each) for each in spec["specs"])
    if spec.get("invocation_tokens"):
        return "alora"
    fitting = [name for name, row in METHODS.items() if row.is_of(spec)]
    if not fitting and spec.get("type") == "FullFineTune":
        return f"top{spec['top_layers']}"
    return max(reversed(fitting), key=lambda name: len(METHODS[name].fixed), default="lora")
