"""What can be said about a way to adapt a model, as flags and files say it.

`registry.py` makes the method's own specification from it.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

from loralab.errors import some
from loralab.methods.table import METHOD_NAMES, METHODS, MethodRow, rows_of


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Everything that decides what is put on a model, whatever the method."""

    method: str = field(default="lora", metadata={"group": "adapter", "names": METHOD_NAMES})
    """How to adapt the model: {names}; or several at once, as lora+prefix-embed."""

    rank: int = field(default=8, metadata={"group": "adapter"})
    """The rank r of each update. In Python vera's own default is its paper's 256."""

    alpha: float = field(default=16.0, metadata={"group": "adapter"})
    """The numerator of the update's scale: alpha / rank. Vera and tied have the scale 1 and take none. In Python
    multilora's and lora-xs's own default is 8."""

    dropout: float = field(default=0.0, metadata={"group": "adapter"})
    """Dropout on the input of the low-rank path."""

    targets: str | None = field(default=None, metadata={"group": "adapter"})
    """Modules to adapt, separated by commas: names, a regex, attention, all-linear, q, k, v, o, or slices as
    c_attn[q,v]. Without it the q and v of the model's family. For adapter-h, -l and -p: the modules whose outputs
    they follow; without it those that the method says."""

    exclude: str | None = field(default=None, metadata={"group": "adapter"})
    """Modules to leave out of those that the targets name."""

    layers: tuple[int, ...] | None = field(default=None, metadata={"group": "adapter"})
    """Only the blocks with these numbers, counted from 0."""

    rank_pattern: dict[str, int] | None = field(default=None, metadata={"group": "adapter"})
    """Another rank for some modules, as ending=rank."""

    alpha_pattern: dict[str, float] | None = field(default=None, metadata={"group": "adapter"})
    """Another alpha for some modules, as ending=alpha."""

    bias: Literal["none", "all", "lora_only"] = field(default="none", metadata={"group": "adapter"})
    """Which biases train: none, all of the model, or those of the adapted modules."""

    rank_stabilized: bool = field(default=False, metadata={"group": "adapter"})
    """Scale by alpha / sqrt(rank) instead (rsLoRA)."""

    modules_to_save: tuple[str, ...] | None = field(default=None, metadata={"group": "adapter"})
    """Modules trained and saved in full; a fresh classification head is found by itself."""

    trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] | None = field(
        default=None, metadata={"group": "adapter"}
    )
    """Of lora and its kinds: tokens whose rows of the input embedding train as well, by index (32000,32001), or of
    modules by name, as embed_tokens=[32000],lm_head=[32000]. A head that is tied to the embedding has the same rows."""

    invocation_tokens: tuple[int, ...] | None = field(default=None, metadata={"group": "adapter"})
    """Of lora, rslora, lora-fa and pissa: act only from where these tokens begin on, at their last place in a text
    (aLoRA); before that the base's cached keys and values serve. By index, as 32000,32001."""

    init: Literal["kaiming", "gaussian", "orthogonal", "eva", "pissa"] = field(
        default="kaiming", metadata={"group": "adapter"}
    )
    """How A starts; B starts at zero, with orthogonal too (unlike PEFT's start of that name). eva: from the principal
    components of the layers' inputs on the training data, which share out the ranks anew. pissa: A and B both start in
    the principal part of the weight."""

    pissa_iterations: int | None = field(default=None, metadata={"only_with": "pissa or --init pissa"})
    """Of pissa: find the principal part by this many subspace iterations (4 to 16) instead of a whole SVD."""

    nearest_step: bool = field(default=False, metadata={"only_with": "lora-fa"})
    """Of lora-fa: turn the gradient of B, so that a step against it is the nearest to one of full fine-tuning that the
    frozen A allows (its later form)."""

    modules: int = field(default=3, metadata={"only_with": "multilora"})
    """Of multilora: how many low-rank modules stand side by side, each of the rank given."""

    gate: Literal["vector", "scalar"] = field(default="vector", metadata={"only_with": "multilora"})
    """Of multilora: a gate for every output of a module, or one for the module."""

    experts: int = field(default=4, metadata={"only_with": "adamix and adamix-adapter"})
    """Of adamix and adamix-adapter: how many experts there are, one of which is drawn for every training pass."""

    share: Literal["B", "A", "none"] = field(default="B", metadata={"only_with": "adamix and adamix-adapter"})
    """Of adamix and adamix-adapter: the side of which there is one copy, up (B) or down (A)."""

    tied_train: str = field(default="A,B,u,v", metadata={"only_with": "tied"})
    """Of tied: which of A, B, u and v train; A,B is the paper's TL5, all four its TL6."""

    d_initial: float = field(default=0.1, metadata={"only_with": "vera"})
    """Of vera: what the vector d starts at."""

    projection_seed: int = field(default=0, metadata={"only_with": "vera"})
    """Of vera: the seed of the shared projections, whatever the run's."""

    size: int = field(default=64, metadata={"only_with": "adapter-h, adapter-l and adapter-p"})
    """Width of the bottleneck of adapter-h, -l and -p."""

    drop_layers: int = field(default=0, metadata={"only_with": "adapter-h, adapter-l and adapter-p"})
    """AdapterDrop: the lowest N blocks get no bottleneck."""

    prefix: int = field(default=8, metadata={"only_with": "prefix-embed and prefix-layer"})
    """Trained positions before the prompt, for prefix-embed and prefix-layer."""

    infix: int = field(default=8, metadata={"only_with": "prefix-embed and prefix-layer"})
    """Trained positions after the prompt, for prefix-embed and prefix-layer."""

    refresh_every: int = field(default=200, metadata={"only_with": "grass and galore"})
    """grass and galore project every weight to `rank` dimensions, and choose these anew every N steps."""

    row_choice: Literal["top", "norm", "norm-replace", "norm2", "uniform"] = field(
        default="top", metadata={"only_with": "grass"}
    )
    """How grass chooses rows of a weight: the longest of the gradient; drawn by length without or with repetition, or
    by its square; or all alike."""

    largest_factor: float | None = field(default=None, metadata={"only_with": "grass"})
    """Of grass: no row's factor is larger, by which rows that are rarely drawn would take longer steps."""

    state_on_refresh: Literal["reset", "carry", "keep"] | None = field(
        default=None, metadata={"only_with": "grass and galore"}
    )
    """Adam's moments when the rows change: all zero (grass), zero but of rows that stay, or kept as they are
    (galore)."""

    projection_scale: float = field(default=0.25, metadata={"only_with": "grass and galore"})
    """Step of the weights that grass and galore project, as a share of lr, which all other tensors have."""

    refresh_warmup: int = field(default=0, metadata={"only_with": "grass and galore"})
    """Steps after grass or galore chose anew in which the step of projected weights rises again."""

    @property
    def start(self) -> str:
        """How A starts, as `LoRA.init` has it: with the number of PiSSA's subspace iterations, if one was given."""
        counted = self.init == "pissa" and self.pissa_iterations is not None
        return f"pissa-{self.pissa_iterations}" if counted else self.init

    @property
    def rows(self) -> tuple[MethodRow, ...]:
        """The rows of everything that they are for."""
        return rows_of(self.method)

    def method_problems(self) -> list[str]:
        """What is wrong with the settings, as sentences."""
        names, rows = self.method.split("+"), rows_of(self.method)
        refused = [
            (len(rows) < len(names), f"method {self.method!r}: choose from {', '.join(METHODS)}, joined by +"),
            (len(set(names)) < len(names), f"method {self.method!r}: each of its parts once"),
            (
                len(names) > 1 and any(row.alone for row in rows),
                f"method {self.method!r}: {_those('alone', ' and ')} train every parameter, by themselves",
            ),
            (self.size < 1, f"size {self.size}: at least 1 is needed"),
            (self.drop_layers < 0, f"drop_layers {self.drop_layers}: it cannot be negative"),
            (min(self.prefix, self.infix) < 0, f"prefix {self.prefix}, infix {self.infix}: they cannot be negative"),
            (
                self.trainable_token_indices is not None and not any(row.takes_tokens for row in rows),
                f"trainable_token_indices: method {self.method!r} trains no single rows; "
                f"choose from {_those('takes_tokens')}",
            ),
            (
                self.invocation_tokens is not None and not all(row.takes_invocation for row in rows),
                f"invocation_tokens: method {self.method!r} acts on every token of a text; "
                f"choose from {_those('takes_invocation')}",
            ),
            (
                any(row.sized_by == "positions" for row in rows) and self.prefix + self.infix < 1,
                "prefix and infix are both 0: there is nothing to train",
            ),
        ]
        return [reason for is_so, reason in refused if is_so]

    def idle_settings(self) -> list[str]:
        """What was given (its value is not the default) and would change nothing, as sentences."""
        taken = {name for row in self.rows for name in row.takes}
        given = [each.name for each in fields(self) if each.init and getattr(self, each.name) != each.default]
        idle = [name for name in given if name in TAKERS and name not in taken] if self.rows else []
        problems = [f"{name} {getattr(self, name)}: {self._refusal} ({_those_with(name)})" for name in idle]
        pissa = self.init == "pissa" or any(row.fixed.get("init") == "pissa" for row in self.rows)
        if self.pissa_iterations is not None and "pissa_iterations" in taken and not pissa:
            problems.append(f"pissa_iterations {self.pissa_iterations}: it is for init pissa, and init is {self.init}")
        return problems

    @property
    def _refusal(self) -> str:
        return f"method {self.method} does not take it"


TAKERS = frozenset(name for row in METHODS.values() for name in row.settings)
"""The settings that some method takes and another may not."""


def _those_with(setting: str) -> str:
    """`lora, dora and 3 more take it`."""
    takers = [name for name, row in METHODS.items() if setting in row.takes]
    return f"{some(takers)} take{'s' if len(takers) == 1 else ''} it"


def _those(trait: str, joined: str = ", ") -> str:
    """The methods of a trait, by name."""
    return joined.join(sorted(name for name, row in METHODS.items() if getattr(row, trait)))
