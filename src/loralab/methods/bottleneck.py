"""Bottleneck adapters: small layers put behind the sublayers of each block (paper §5.1).

    h ── [LayerNorm] ── down (size×d) ── σ ── up (d×size) ── + ── h + Up·σ(Down·h + b) + c
    └────────────────────────────────────────────────────────┘

    style       behind                      LayerNorm        σ       source
    houlsby     attention and feed-forward  none             swish   Adapter-H, arXiv 1902.00751
    lin         feed-forward                trained          ReLU    Adapter-L, arXiv 2004.03829
    pfeiffer    feed-forward                fixed (no w, b)  ReLU    Adapter-P, arXiv 2005.00247

The nonlinearities are those of the LoRA authors' code (for `lin` the cited paper's). "Behind" is: on the output of the
sublayer's last projection, before it is added to the residual stream. Up and c start at zero, so that a fresh adapter
is the base, bit for bit. A layer trains 2·d·size + size + d parameters, and 2·d for a trained LayerNorm. The product
with σ in it is no change of a weight: these cannot be merged, and are the reason for the latency of Table 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.core.plan import Plan
from loralab.core.targets import Target, find_targets, split_patterns
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import TargetError
from loralab.methods.beside import head_updates, heads_of
from loralab.methods.specification import Specification, choice_problems, count_problems
from loralab.models.families.aliases import sublayer_outputs
from loralab.nn.dense import dense_shape, is_dense
from loralab.nn.module_names import layer_index
from loralab.nn.tensors import device_of


@dataclass(frozen=True)
class Style:
    """What sets the kinds of bottleneck apart."""

    after_attention: bool
    norm: str
    """`none`, `fixed` or `trained`."""
    activation: Callable[[Tensor], Tensor]


STYLES = {
    "houlsby": Style(True, "none", F.silu),
    "lin": Style(False, "trained", F.relu),
    "pfeiffer": Style(False, "fixed", F.relu),
    "adamix": Style(False, "none", F.gelu),
}
"""The last is the layer whose experts `adamix_adapter.py` mixes."""


class BottleneckUpdate(Update):
    """The module's output h [..., d] becomes h + Up·σ(Down·norm(h) + b) + c."""

    kind = "bottleneck"
    why_not_merged: ClassVar[str] = "a layer with a nonlinearity in it, which no weight can take up"

    def __init__(self, width: int, size: int, style: str, device: torch.device) -> None:
        shapes = {
            "down_weight": (size, width),
            "down_bias": (size,),
            "up_weight": (width, size),
            "up_bias": (width,),
        } | ({"norm_weight": (width,), "norm_bias": (width,)} if STYLES[style].norm == "trained" else {})
        tensors = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
        super().__init__({}, added=tensors)
        self.width, self.size, self.style = width, size, style

    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "size": self.size, "style": self.style}

    def built_on(self, base: nn.Module) -> list[str]:
        return [WHOLE]

    def reset(self) -> None:
        """Down ~ U(±1/√d), the trained norm at (1, 0), everything else zero: the layer adds nothing."""
        bound = 1 / math.sqrt(self.width)
        with torch.no_grad():
            self.added.get_parameter("down_weight").uniform_(-bound, bound)
            if STYLES[self.style].norm == "trained":
                self.added.get_parameter("norm_weight").fill_(1.0)

    def silent_at_first_step(self) -> set[str]:
        """Everything before Up, while Up is zero."""
        return {name for name, _ in self.added.named_parameters() if not name.startswith("up_")}

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h: Tensor = self.call(base, *args, **kwargs)
        weights = {name: tensor.to(h.dtype) for name, tensor in self.added.named_parameters()}
        return h + bottleneck(h, weights, STYLES[self.style])


def bottleneck(h: Tensor, w: dict[str, Tensor], style: Style) -> Tensor:
    """Up·σ(Down·norm(h) + b) + c for h [..., d]."""
    x = h if style.norm == "none" else F.layer_norm(h, h.shape[-1:], w.get("norm_weight"), w.get("norm_bias"))
    inner = style.activation(F.linear(x, w["down_weight"], w["down_bias"]))
    return F.linear(inner, w["up_weight"], w["up_bias"])


@dataclass(frozen=True)
class BottleneckAdapter(Specification):
    """A bottleneck behind the sublayers of every block: Adapter-H, Adapter-L or Adapter-P by `style`."""

    style: str = "houlsby"
    """`houlsby` (H), `lin` (L) or `pfeiffer` (P)."""
    size: int = 64
    """Width of the bottleneck."""
    drop_layers: int = 0
    """AdapterDrop (arXiv 2010.11918): the lowest N blocks get none."""
    targets: str | Sequence[str] | None = None
    """Dense modules to follow, by name, where the model's family is not known; None: as the style says."""
    exclude: str | Sequence[str] = ()
    """Patterns of modules to leave out."""
    layers: Sequence[int] | None = None
    """Only the blocks with these numbers."""
    modules_to_save: Sequence[str] | None = None
    """The task's head, trained in full and counted apart. None: it is found."""

    def problems(self) -> list[str]:
        found = [*choice_problems(self, "style", STYLES), *count_problems(self, "size")]
        if self.drop_layers < 0:
            found.append(f"drop_layers is {self.drop_layers} and must be a whole number from 0")
        return found

    def plan(self, model: nn.Module) -> Plan:
        """A fresh bottleneck behind each target, and the heads."""
        heads = heads_of(model, self.modules_to_save)
        targets = find_targets(model, self._patterns(model), split_patterns(self.exclude), self.layers)
        kept = [target for target in targets if not self._is_dropped(target.path)]
        if not kept:
            raise TargetError(f"drop_layers {self.drop_layers} leaves no block with an adapter; give a smaller number")
        updates: dict[str, Update] = {target.path: self._fresh(target) for target in kept}
        return Plan(updates | head_updates(model, heads), (), tuple(heads))

    def _patterns(self, model: nn.Module) -> list[str]:
        if self.targets is not None:
            return split_patterns(self.targets)
        try:
            attention, feed_forward = sublayer_outputs(model)
        except TargetError as problem:
            raise TargetError(
                f"a bottleneck follows the projections that end attention and feed-forward: {problem} "
                "(targets='attn.out,mlp.down', say)"
            ) from problem
        return [*attention, *feed_forward] if STYLES[self.style].after_attention else feed_forward

    def _is_dropped(self, path: str) -> bool:
        layer = layer_index(path)
        return layer is not None and layer < self.drop_layers

    def _fresh(self, target: Target) -> Update:
        if target.parts != (WHOLE,) or not is_dense(target.module):
            raise TargetError(
                f"a bottleneck cannot follow {target.path}: it is not a dense layer but "
                f"{type(target.module).__name__}; name the dense layers with targets"
            )
        width, device = dense_shape(target.module)[0], device_of(target.module)
        return self.fresh_update(width, device)

    def fresh_update(self, width: int, device: torch.device) -> Update:
        """A bottleneck that adds nothing yet, behind a layer `width` wide."""
        update = BottleneckUpdate(width, self.size, self.style, device)
        update.reset()
        return update
