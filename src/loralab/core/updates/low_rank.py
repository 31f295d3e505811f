"""Updates of one weight by factor pairs, computed the cheap way: x·Aᵀ·Bᵀ beside the frozen product.

`LinearUpdate` serves nn.Linear, transformers' Conv1D (weight stored [I, O]) and whatever else maps its last
dimension linearly; with several parts it updates chosen output rows of a fused projection. `EmbeddingUpdate` and
`ConvUpdate` serve their namesakes. Of a dense layer there are two more: with a bias of the update's own, and one that
acts from its invocation on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.core.math import adapted_linear, delta, low_rank, low_rank_rows
from loralab.core.rows.invocation import Starts
from loralab.core.updates.factors import Factors, LowRankDelta, Pair
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import AdapterStateError
from loralab.nn.dropout import dropout
from loralab.nn.tensors import tensor_of, wide
from loralab.nn.trial import convolution_input, embedding_scale, is_untouched, rows_for, tokens_for


class Stacking(Update, ABC):
    """An update whose factors are stacked with those of other adapters, so that a mixed batch runs in one pass."""

    @abstractmethod
    def factors(self) -> Pair:
        """(A, s·B) as this forward pass computes with them."""

    @abstractmethod
    def beside_rows(self, base: nn.Module, h: Tensor, x: Tensor, factors_K: Pair, adapter_S: Tensor) -> Tensor:
        """`beside` for a batch, sequences first, of which s is under the factors `adapter_S[s]` of K adapters."""

    def mixed(
        self,
        base: nn.Module,
        updates: Sequence[Update | None],
        adapter_S: Tensor,
        x: Tensor,
        starts: Starts | None = None,
    ) -> Tensor:
        stacked = _stack([each.factors() if isinstance(each, Stacking) else None for each in updates])
        h: Tensor = base(x)
        added = self.beside_rows(base, h, x, stacked, adapter_S)
        return h + added if starts is None else starts.applied(h, added)


class LinearUpdate(Stacking):
    """ΔW [O, I] = Σ over parts of s·B·A, each in that part's output rows."""

    kind = "linear"
    runs_beside = True
    features = 1

    def __init__(
        self,
        parts: Mapping[str, LowRankDelta],
        out_features: int,
        rows: Mapping[str, Tensor] | None = None,
        stored_transposed: bool = False,
    ) -> None:
        super().__init__(parts)
        self.out_features = out_features
        self.stored_transposed = stored_transposed
        self.rows = nn.Module()
        for part, index in (rows or {}).items():
            self.rows.register_buffer(part, index, persistent=False)

    def factors(self) -> Pair:
        """(A [R, I], s·B [O, R]) of all parts together, as this forward pass computes with them."""
        return self._together({part: self.delta_of(part).pair() for part in self.parts})

    def settled_factors(self) -> Pair:
        """(A, s·B) of all parts together as they are merged: without chance, without gradients."""
        return self._together({part: self.delta_of(part).settled() for part in self.parts})

    def _together(self, pairs: Mapping[str, Pair]) -> Pair:
        """A stacked, each part's B in its own rows and columns."""
        if WHOLE in pairs:
            return pairs[WHOLE]
        spread = [
            scaled_B.new_zeros(self.out_features, scaled_B.shape[1]).index_copy(0, self.rows_of(part), scaled_B)
            for part, (_, scaled_B) in pairs.items()
        ]
        return torch.cat([A for A, _ in pairs.values()]), torch.cat(spread, dim=1)

    def rows_of(self, part: str) -> Tensor:
        """The output rows of the fused weight that belong to a part."""
        return self.rows.get_buffer(part)

    def adopt_parts(self, other: Update) -> None:
        super().adopt_parts(other)
        if isinstance(other, LinearUpdate):
            for part, index in other.rows.named_buffers():
                self.rows.register_buffer(part, index, persistent=False)

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        A, B = self.settled_factors()
        D_OI = delta(A, B, wide(tensor_of(base, WHOLE)))
        return {WHOLE: D_OI.T if self.stored_transposed else D_OI}

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        x: Tensor = args[0]
        if self.dropout() == 0.0 and is_plain_product(base, x):
            W, bias = tensor_of(base, WHOLE), self._bias(base)
            return adapted_linear(x, W.T if self.stored_transposed else W, bias, *self.factors())
        h: Tensor = self.call(base, *args, **kwargs)
        return h + self.beside(base, h, x)

    def beside(self, base: nn.Module, h: Tensor, x: Tensor) -> Tensor:
        return low_rank(dropout(x, self.dropout()), *self.factors()).to(h.dtype)

    def trial_input(self, base: nn.Module) -> Tensor | None:
        return rows_for(base, self.settled_factors()[0].shape[1])

    def _bias(self, base: nn.Module) -> Tensor | None:
        if "bias" in self.replacements():
            return self.replacements()["bias"].to(tensor_of(base, WHOLE).dtype)
        return None if base.bias is None else tensor_of(base, "bias")

    def can_mix(self) -> bool:
        return not self.replacements() and self.dropout() == 0.0

    def beside_rows(self, base: nn.Module, h: Tensor, x: Tensor, factors_K: Pair, adapter_S: Tensor) -> Tensor:
        x_STI = x.reshape(len(adapter_S), -1, x.shape[-1])
        return low_rank_rows(x_STI, *factors_K, adapter_S).view(h.shape).to(h.dtype)


BIAS = "lora_bias"
"""What the trained bias is called."""


class BiasedLinear(LinearUpdate):
    """The update of a dense layer without a bias, and one for it, b [O]: h = W·x + s·B·A·x + b.

    Where the layer has a bias, a trained one in its place says the same. A weight cannot take this up.
    """

    why_not_merged = "a bias of a layer that has none"

    def __init__(
        self,
        parts: Mapping[str, LowRankDelta],
        out_features: int,
        rows: Mapping[str, Tensor] | None = None,
        stored_transposed: bool = False,
    ) -> None:
        super().__init__(parts, out_features, rows, stored_transposed)
        device = next(self.parameters()).device
        self.added.register_parameter(BIAS, nn.Parameter(torch.zeros(out_features, device=device)))

    def set_bias(self, values_O: Tensor) -> None:
        """Take b from these values."""
        with torch.no_grad():
            if values_O.dtype == torch.float64:
                self.added.double()
            self.added.get_parameter(BIAS).copy_(values_O)

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h: Tensor = self.call(base, *args, **kwargs)
        return h + self.beside(base, h, args[0])

    def beside(self, base: nn.Module, h: Tensor, x: Tensor) -> Tensor:
        return super().beside(base, h, x) + self.added.get_parameter(BIAS).to(h.dtype)

    def can_mix(self) -> bool:
        return False


class InvokedLinear(LinearUpdate):
    """Activated LoRA (aLoRA, arXiv 2504.12397): the update of a dense layer at the positions where it acts, from its
    invocation on; elsewhere the base's own output.

    Called without starts it acts at every position: an adapted layer always gives them.
    """

    why_not_merged = "a change from its invocation tokens on (aLoRA), where a weight would act at every position"

    def __init__(
        self,
        parts: Mapping[str, LowRankDelta],
        out_features: int,
        rows: Mapping[str, Tensor] | None = None,
        stored_transposed: bool = False,
        invocation: Sequence[int] = (),
    ) -> None:
        super().__init__(parts, out_features, rows, stored_transposed)
        self.invocation = tuple(invocation)

    def forward(self, base: nn.Module, *args: Any, starts: Starts | None = None, **kwargs: Any) -> Tensor:
        h: Tensor = self.call(base, *args, **kwargs)
        added = self.beside(base, h, args[0])
        return h + added if starts is None else starts.applied(h, added)

    def mixes_as(self) -> type[Update]:
        return LinearUpdate


class EmbeddingUpdate(Stacking):
    """ΔE [V, D] = (s·B·A)ᵀ with A [R, V] and B [D, R]: a token's update is B times its column of A.

    There is no dropout on this path, as in loralib: its input is an index.
    """

    kind = "embedding"
    runs_beside = True
    features = 0

    def factors(self) -> Pair:
        """(A [R, V], s·B [D, R])."""
        return self.delta_of(WHOLE).pair()

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        A, B = self.factors()
        return {WHOLE: delta(A, B, wide(tensor_of(base, WHOLE))).T}

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h: Tensor = base(*args, **kwargs)
        return h + self.beside(base, h, args[0])

    def beside(self, base: nn.Module, h: Tensor, x: Tensor) -> Tensor:
        A, B = self.factors()
        u = F.embedding(x, A.T).to(wide(h))
        return embedding_scale(base, h) * F.linear(u, B.to(u.dtype)).to(h.dtype)

    def trial_input(self, base: nn.Module) -> Tensor | None:
        return tokens_for(base)

    def can_mix(self) -> bool:
        return True

    def beside_rows(self, base: nn.Module, h: Tensor, x: Tensor, factors_K: Pair, adapter_S: Tensor) -> Tensor:
        A_KRV, B_KDR = factors_K
        rank, vocabulary = A_KRV.shape[1:]
        tokens_ST = x.reshape(len(adapter_S), -1) + adapter_S[:, None] * vocabulary
        u_STR = F.embedding(tokens_ST, A_KRV.transpose(1, 2).reshape(-1, rank)).to(wide(h))
        added = torch.bmm(u_STR, B_KDR[adapter_S].to(u_STR.dtype).transpose(1, 2)).view(h.shape)
        return embedding_scale(base, h) * added.to(h.dtype)


class ConvUpdate(Update):
    """ΔW of a convolution: A is a convolution to R channels with the base's own geometry, B a 1×1 convolution.

    With G groups each group has its own rank-R pair, A [G·R, I/G, …] and B [O, R, 1…], both applied grouped, so
    that B·A has exactly the shape of the grouped weight. An A over all input channels, [G·R, I, …], as PEFT
    trains it, runs too; its B·A is denser than the weight and cannot be merged.
    """

    kind = "conv"
    runs_beside = True

    def is_dense(self, base: nn.Module) -> bool:
        """Whether A reads every input channel although the convolution is grouped."""
        return self.factors_of(WHOLE).lora_A.shape[1] != tensor_of(base, WHOLE).shape[1]

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        W = tensor_of(base, WHOLE)
        if self.is_dense(base):
            raise AdapterStateError(
                f"this update of a convolution with {base.groups} groups mixes all of its input channels, as PEFT "
                "trains it, which a grouped weight cannot hold: keep the adapter live"
            )
        return {WHOLE: delta(*_by_group(*self.delta_of(WHOLE).pair()), wide(W)).reshape(W.shape)}

    def trial_input(self, base: nn.Module) -> Tensor | None:
        return convolution_input(base)

    def matrices(self, part: str) -> Pair:
        return _by_group(*self.delta_of(part).settled())

    def set_matrices(self, part: str, A: Tensor, B: Tensor) -> None:
        old = self.factors_of(part)
        A_conv = A.flatten(0, 1).view(-1, *old.lora_A.shape[1:])
        B_conv = B.flatten(0, 1).view(old.lora_B.shape[0], -1, *old.lora_B.shape[2:])
        self.parts[part] = Factors.of(A_conv, B_conv, rank=A.shape[-2], like=old)

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h: Tensor = self.call(base, *args, **kwargs)
        return h + self.beside(base, h, args[0])

    def beside(self, base: nn.Module, h: Tensor, x: Tensor) -> Tensor:
        x = dropout(x, self.dropout()).to(h.dtype)
        A, B = (each.to(h.dtype) for each in self.delta_of(WHOLE).pair())
        conv, convolve = cast(nn.Conv2d, base), _CONVOLUTIONS[A.dim()]  # the three classes have the same attributes
        padding: Any = conv.padding
        if conv.padding_mode != "zeros":
            x, padding = F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode), 0
        u = convolve(x, A, None, conv.stride, padding, conv.dilation, 1 if self.is_dense(base) else conv.groups)
        return convolve(u, B, groups=conv.groups)


_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def _by_group(A: Tensor, B: Tensor) -> Pair:
    """A convolution's factors as matrices (A [G, R, I], B [G, O, R]), one pair per group."""
    rank = B.shape[1]
    groups = A.shape[0] // rank
    return A.reshape(groups, rank, -1), B.reshape(groups, -1, rank)


def is_plain_product(base: nn.Module, x: Tensor) -> bool:
    """Whether the base is nothing but x·Wᵀ + bias right now: no wrapper, hook, quantisation, sharding or autocast."""
    return (
        is_untouched(base)
        and type(base.weight) is nn.Parameter
        and base.weight.dtype == x.dtype
        and not torch.is_autocast_enabled(x.device.type)
    )


def _stack(pairs: Sequence[Pair | None]) -> Pair:
    """Factor pairs of several adapters as (A [K, R, I], B [K, O, R]), zero-padded to the largest rank."""
    present = [pair for pair in pairs if pair is not None]
    rank = max(A.shape[0] for A, _ in present)
    like_A, like_B = present[0]
    nothing = like_A.new_zeros(rank, like_A.shape[1]), like_B.new_zeros(like_B.shape[0], rank)
    padded = [
        nothing
        if pair is None
        else (
            F.pad(pair[0], (0, 0, 0, rank - pair[0].shape[0])),
            F.pad(pair[1], (0, rank - pair[1].shape[1])),
        )
        for pair in pairs
    ]
    return torch.stack([A for A, _ in padded]), torch.stack([B for _, B in padded])
