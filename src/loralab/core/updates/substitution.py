"""Updates of weights that no forward of their own multiplies: raw parameters that a module reads itself.

These run by substitution (see `update.py`): the module computes with W + s·B·A. nn.MultiheadAttention and the
mixture-of-experts modules of transformers 5 are of this kind, and so is any module saved in full.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.math import delta
from loralab.core.rows.sequences import join, select
from loralab.core.updates.factors import Factors
from loralab.core.updates.update import Update
from loralab.nn.tensors import tensor_of, wide

ATTENTION_PARTS = ("q", "k", "v", "out")


class ParameterUpdate(Update):
    """ΔP of raw parameters by name: [O, I], or one matrix per expert, [E, O, I] ([E, I, O] if transposed)."""

    kind = "parameters"

    def __init__(self, parts: Mapping[str, Factors], stored_transposed: bool = False) -> None:
        super().__init__(parts)
        self.stored_transposed = stored_transposed

    def built_on(self, base: nn.Module) -> list[str]:
        return list(self.parts)

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        deltas = {}
        for name in self.parts:
            D = delta(*self.delta_of(name).pair(), wide(tensor_of(base, name)))
            deltas[name] = D.mT if self.stored_transposed and D.dim() == 3 else D
        return deltas


class AttentionUpdate(Update):
    """ΔW of q, k, v (rows of `in_proj_weight`, or three weights where their widths differ) and of the output."""

    kind = "attention"

    def built_on(self, base: nn.Module) -> list[str]:
        into = [part for part in ("q", "k", "v") if part in self.parts]
        split = base.in_proj_weight is None
        names = [f"{part}_proj_weight" for part in into] if split else ["in_proj_weight"] if into else []
        return names + (["out_proj.weight"] if "out" in self.parts else [])

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        deltas = {}
        if "out" in self.parts:
            deltas["out_proj.weight"] = self._delta("out", tensor_of(base, "out_proj.weight"))
        chosen = [part for part in ("q", "k", "v") if part in self.parts]
        if base.in_proj_weight is None:
            return deltas | {f"{p}_proj_weight": self._delta(p, tensor_of(base, f"{p}_proj_weight")) for p in chosen}
        if chosen:
            thirds = tensor_of(base, "in_proj_weight").chunk(3)
            deltas["in_proj_weight"] = torch.cat(
                [self._delta(part, third) for part, third in zip(("q", "k", "v"), thirds, strict=True)]
            )
        return deltas

    def _delta(self, part: str, W: Tensor) -> Tensor:
        if part not in self.parts:
            return torch.zeros_like(W, dtype=wide(W))
        return delta(*self.delta_of(part).pair(), wide(W))

    def sequence_dimension(self, base: nn.Module) -> int:
        return 0 if base.batch_first else 1

    def take_rows(self, base: nn.Module, args: Any, kwargs: Any, index: Tensor, count: int) -> tuple[Any, Any]:
        names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
        given = dict(zip(names, args, strict=False)) | kwargs
        batch = self.sequence_dimension(base)
        for name in ("query", "key", "value"):
            given[name] = select(given[name], index, count, batch)
        given["key_padding_mask"] = select(given.get("key_padding_mask"), index, count)
        mask = given.get("attn_mask")
        if isinstance(mask, Tensor) and mask.dim() == 3:  # one mask per sequence and head, sequences outermost
            given["attn_mask"] = select(mask, index, count)
        return (), given

    def join_rows(self, base: nn.Module, outputs: Sequence[Any], order: Tensor) -> Any:
        attended, weights = zip(*outputs, strict=True)
        return join(attended, order, self.sequence_dimension(base)), join(weights, order)


def attention_shapes(base: nn.Module) -> dict[str, tuple[int, int]]:
    """(O, I) of each part of an nn.MultiheadAttention."""
    E, K, V = (int(getattr(base, name)) for name in ("embed_dim", "kdim", "vdim"))
    return {"q": (E, E), "k": (E, K), "v": (E, V), "out": (E, E)}
