"""What can be said about a way to adapt a model, as flags and files say it. Knows nothing of torch.

`registry.specification` makes the method's own specification from it.
"""

from dataclasses import dataclass, field
from typing import Literal

METHOD_NAMES = (
    "lora",
    "full",
    "top2",
    "bitfit",
    "prefix-embed",
    "prefix-layer",
    "adapter-h",
    "adapter-l",
    "adapter-p",
)
"""The methods of the paper (§5.1); several at once are joined by `+`."""

LOW_RANK, BOTTLENECK, PREFIX = ("lora",), ("adapter-h", "adapter-l", "adapter-p"), ("prefix-embed", "prefix-layer")
"""Which methods have a rank, a bottleneck size, or a number of inserted positions."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Everything that decides what is put on a model, whatever the method."""

    method: str = field(default="lora", metadata={"group": "adapter"})
    """How to adapt the model: lora, full, top2, bitfit, prefix-embed, prefix-layer, adapter-h, adapter-l, adapter-p;
    or several at once, as lora+prefix-embed."""

    rank: int = field(default=8, metadata={"group": "adapter"})
    """The rank r of each update."""

    alpha: float = field(default=16.0, metadata={"group": "adapter"})
    """The numerator of the update's scale: alpha / rank."""

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

    init: Literal["kaiming", "gaussian", "orthogonal"] = field(default="kaiming", metadata={"group": "adapter"})
    """How A starts; B starts at zero."""

    size: int = field(default=64, metadata={"group": "adapter"})
    """Width of the bottleneck of adapter-h, -l and -p."""

    drop_layers: int = field(default=0, metadata={"group": "adapter"})
    """AdapterDrop: the lowest N blocks get no bottleneck."""

    prefix: int = field(default=8, metadata={"group": "adapter"})
    """Trained positions before the prompt, for prefix-embed and prefix-layer."""

    infix: int = field(default=8, metadata={"group": "adapter"})
    """Trained positions after the prompt, for prefix-embed and prefix-layer."""

    def method_problems(self) -> list[str]:
        """What cannot be, as sentences."""
        names = self.method.split("+")
        unknown = [name for name in names if name not in METHOD_NAMES]
        found = [f"method {self.method!r}: choose of {', '.join(METHOD_NAMES)}, joined by +"] if unknown else []
        if len(set(names)) < len(names):
            found.append(f"method {self.method!r}: each of its parts once")
        if self.size < 1:
            found.append(f"size {self.size}: at least 1 is needed")
        if self.drop_layers < 0:
            found.append(f"drop_layers {self.drop_layers}: it cannot be negative")
        if min(self.prefix, self.infix) < 0:
            found.append(f"prefix {self.prefix}, infix {self.infix}: they cannot be negative")
        if any(name in PREFIX for name in names) and self.prefix + self.infix < 1:
            found.append("prefix and infix are both 0: there is nothing to train")
        return found
