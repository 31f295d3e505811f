"""One case per kind of layer, on the toys of `tests/toys.py` and on a few that PEFT alone makes interesting."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from oracle.case import Case
from toys import TOYS, Lookup, Sandwich


class MLP(nn.Module):
    """Two dense layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lin0, self.lin1, self.head = nn.Linear(16, 12), nn.Linear(12, 16), nn.Linear(16, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.lin1(torch.relu(self.lin0(x)))))


class Everything(nn.Module):
    """An embedding, a convolution, both dense layers and an attention in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.conv = nn.Embedding(32, 16), nn.Conv1d(16, 16, 3, padding=1)
        self.fused, self.attend = Conv1D(16, 16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.lin = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.conv(self.emb(tokens).transpose(1, 2)).transpose(1, 2)).contiguous()
        x = torch.tanh(self.fused(x))
        return self.lin(self.norm(self.attend(x, x, x, need_weights=False)[0]))


def rows() -> dict[str, Tensor]:
    """Four sequences of eight vectors."""
    return {"x": torch.randn(4, 8, 16)}


def indices() -> dict[str, Tensor]:
    """Four sequences of eight indices."""
    return {"tokens": torch.randint(0, 32, (4, 8))}


def _same(targets: list[str]) -> dict[str, Any]:
    """The same target names on both sides."""
    return {"ours": {"targets": targets}, "theirs": {"target_modules": targets}}


def _toy(name: str, theirs: dict[str, Any] | None, **more: Any) -> Case:
    toy = TOYS[name]
    return Case(toy.build, indices if toy.tokens else rows, {"targets": toy.targets}, theirs, **more)


def sandwich(inner: Callable[[], nn.Module], dimensions: int) -> Callable[[], nn.Module]:
    """How to build a convolution `inner` in that many dimensions between a dense layer and the output."""
    shapes = {1: (8,), 2: (2, 4), 3: (2, 2, 2)}

    def call(module: nn.Module, x: Tensor) -> Tensor:
        return module(x.transpose(1, 2).unflatten(2, shapes[dimensions]))

    return lambda: Sandwich(inner(), call)


def _padded() -> nn.Module:
    model = Lookup()
    model.inner = nn.Embedding(32, 16, padding_idx=3)
    return model


INNER = {"target_modules": ["inner"]}
IN_BOTH = _same(["inner"])

MODULES: dict[str, Case] = {
    "dense layers": Case(MLP, rows, {"targets": ["lin0", "lin1"]}, {"target_modules": ["lin0", "lin1"]}),
    "linear": _toy("linear", INNER),
    "linear without bias": _toy("linear without bias", INNER),
    "conv1d of transformers": _toy("conv1d of transformers", INNER | {"fan_in_fan_out": True}),
    "fused thirds": _toy("fused thirds", None),
    "fused thirds, stored transposed": _toy("fused thirds, stored transposed", None),
    "embedding": _toy("embedding", INNER),
    "embedding with padding": Case(_padded, indices, **IN_BOTH),
    "conv1d": Case(sandwich(lambda: nn.Conv1d(16, 8, 3, stride=2, padding=1), 1), rows, **IN_BOTH),
    "conv2d": _toy("conv2d", INNER),
    "conv2d, padding by name": Case(sandwich(lambda: nn.Conv2d(16, 8, 3, padding="same"), 2), rows, **IN_BOTH),
    "conv3d": Case(sandwich(lambda: nn.Conv3d(16, 8, 2, padding=(1, 0, 1)), 3), rows, **IN_BOTH),
    "conv2d, groups": _toy("conv2d, groups", None, peft_merges=False),
    "attention": _toy("attention", INNER),
    "attention, q and v": _toy("attention, q and v", None),
    "attention, output": _toy("attention, output", None),
    "attention, batch second": _toy("attention, batch second", INNER),
    "llama in a module": _toy("llama", {"target_modules": ["q_proj", "v_proj", "lm_head"]}),
    "experts": _toy("experts", {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}),
    "every kind with Conv1D": Case(Everything, indices, **_same(["emb", "conv", "fused", "lin"])),
    "every kind with attention": Case(Everything, indices, **_same(["emb", "conv", "attend", "lin"])),
}  # fmt: skip
