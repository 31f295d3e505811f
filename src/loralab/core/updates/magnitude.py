"""DoRA (arXiv 2402.09353): the direction of every output's weights comes from W + s·B·A, their length is trained.

    V = W + s·B·A,    c = m / ‖V‖,    W' = c ⊙ V        m [O], one number per output; ‖·‖ over its inputs (eq. 5)

‖V‖ is a constant to the gradient (§4.3; `through_norm` lets it through), so dL/dV = c ⊙ dL/dW'. A dense layer
computes c ⊙ (x·Wᵀ + x·Aᵀ·(s·B)ᵀ) + bias and never forms V, whose norms come from the factors:

    ‖V_o‖² = ‖W_o‖² + 2·(s·B)_o·(A·W_oᵀ) + (s·B)_o·(A·Aᵀ)·(s·B)_oᵀ

m starts as ‖V‖ computed the same way in float32, so c = 1 and the layer is its base, bit for bit. What it makes of W
differs from W in full rank: it is no LoRA, and two of them do not add up.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.core.math import low_rank, row_norms, scaled_linear
from loralab.core.updates.factors import LowRankDelta, Pair
from loralab.core.updates.low_rank import ConvUpdate, EmbeddingUpdate, LinearUpdate, is_plain_product
from loralab.core.updates.update import WHOLE, Update
from loralab.nn.dropout import dropout
from loralab.nn.tensors import tensor_of, wide

MAGNITUDE = "lora_magnitude_vector"
"""What the trained lengths are called, as in PEFT's files."""


@dataclass(frozen=True)
class Seen:
    """Which tensors something was computed from, and how often they had been written to. It holds them, so that no
    other tensor can be taken for one of them.
    """

    tensors: tuple[Tensor, ...]
    states: tuple[tuple[object, ...], ...]

    @staticmethod
    def of(tensors: Sequence[object]) -> "Seen | None":
        """None where torch does not count, or where one is made anew whenever it is read (a quantised weight)."""
        known = tuple(each for each in tensors if isinstance(each, Tensor) and each.is_leaf)
        if len(known) < len(tensors) or not isinstance(tensors[0], nn.Parameter):
            return None
        if any(each.is_inference() for each in known):
            return None
        return Seen(known, tuple((id(each), each.data_ptr(), each._version, each.dtype, each.device) for each in known))

    def is_as(self, earlier: "Seen | None") -> bool:
        """Whether nothing has changed since."""
        return earlier is not None and earlier.states == self.states


class Magnitude(Update, ABC):
    """What the updates with trained lengths have in common; each says what the norms of its V are."""

    adds_up = False
    through_norm = False
    _kept: tuple[Seen, Tensor] | None = None
    _squares: tuple[Seen, Tensor] | None = None

    def keep_lengths(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Make m, its values still to come."""
        self.added.register_parameter(MAGNITUDE, nn.Parameter(torch.empty(shape, device=device)))

    def start(self, base: nn.Module) -> "Magnitude":
        """Take the lengths from the base's weight, and return this update."""
        with torch.no_grad():
            self.set_lengths(self._norms(base, self._settled()))
        return self

    @property
    def magnitude(self) -> nn.Parameter:
        """m: [O], or one for each adapted row; [1, O, 1, …] of a convolution."""
        return self.added.get_parameter(MAGNITUDE)

    def lengths(self, base: nn.Module) -> Tensor:
        """m of every output, also of those whose lengths do not train: the base's own."""
        return self.magnitude

    def settings(self) -> dict[str, Any]:
        return {"through_norm": True} if self.through_norm else {}

    def set_lengths(self, values: Tensor) -> None:
        """Take m from values for every output of the module, in float64 where they come in float64."""
        with torch.no_grad():
            if values.dtype == torch.float64:
                self.added.double()
            self.magnitude.copy_(self._adapted(values.flatten()).view_as(self.magnitude))

    def stretch(self, base: nn.Module, pair: Pair) -> Tensor:
        """c = m / ‖V‖, [O]; 1 for rows that are not adapted. Without gradients it is kept for as long as nothing that
        it is made of changes, so that decoding token by token does not measure V anew for each. A pass with gradients
        ends that: a step may follow it, and torch does not count what its fused optimizers write.
        """
        if torch.is_grad_enabled():
            self._kept = None
        seen = None if torch.is_grad_enabled() else Seen.of([base.weight, *(t for _, t in self.named_tensors())])
        if seen is not None and self._kept is not None and seen.is_as(self._kept[0]):
            return self._kept[1]
        norms = self._norms(base, pair) if self.through_norm else self._norms(base, pair).detach()
        c_O = self._spread(self.magnitude.flatten() / self._adapted(norms), norms)
        if seen is not None:
            self._kept = seen, c_O
        return c_O

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        W = tensor_of(base, WHOLE)
        D = super().deltas(base)[WHOLE]
        V = W.to(D.dtype) + D
        return {WHOLE: self._along(self.stretch(base, self._settled())) * V - W}

    def change(self, base: nn.Module, part: str) -> Tensor:
        """W' − W, which is of full rank."""
        with torch.no_grad():
            return self._rows_of_weight(self.deltas(base)[WHOLE])

    def can_mix(self) -> bool:
        return False

    def _settled(self) -> Pair:
        return self.delta_of(WHOLE).settled()

    def _norms(self, base: nn.Module, pair: Pair) -> Tensor:
        """‖V‖ for every output, [O], in float32 or wider."""
        A, B = pair
        W = self._rows_of_weight(tensor_of(base, WHOLE).detach())
        return row_norms(W, A.flatten(1), B.flatten(1), self._squares_of(base, W))

    def _squares_of(self, base: nn.Module, W_OI: Tensor) -> Tensor | None:
        """‖W_o‖² of every row, kept for as long as the base holds this very tensor with these very values."""
        seen = Seen.of([base.weight])
        if seen is None:
            return None
        if self._squares is None or not seen.is_as(self._squares[0]):
            self._squares = seen, W_OI.to(wide(W_OI)).square().sum(1)
        return self._squares[1]

    @abstractmethod
    def _rows_of_weight(self, stored: Tensor) -> Tensor:
        """The weight as a matrix [O, I] whose rows have the lengths."""

    @abstractmethod
    def _along(self, c_O: Tensor) -> Tensor:
        """c in a shape that multiplies the weight as it is stored."""

    def _adapted(self, values_O: Tensor) -> Tensor:
        """Of one value per output, those of the adapted ones."""
        return values_O

    def _spread(self, values: Tensor, like_O: Tensor) -> Tensor:
        """The inverse: 1 for the others."""
        return values


class MagnitudeLinear(Magnitude, LinearUpdate):
    """DoRA of a dense layer; with parts, of those rows of a fused projection only."""

    def __init__(
        self,
        parts: Mapping[str, LowRankDelta],
        out_features: int,
        rows: Mapping[str, Tensor] | None = None,
        stored_transposed: bool = False,
        through_norm: bool = False,
    ) -> None:
        super().__init__(parts, out_features, rows, stored_transposed)
        self.through_norm = through_norm
        outputs = out_features if rows is None or WHOLE in parts else sum(len(index) for index in rows.values())
        self.keep_lengths((outputs,), next(self.parameters()).device)

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        x: Tensor = args[0]
        A, B = self.factors()
        c, bias, probability = self.stretch(base, (A, B)), self._bias(base), self.dropout()
        if probability == 0.0 and is_plain_product(base, x):
            return scaled_linear(x, self._weight(base), bias, A, B, c)
        h: Tensor = self.call(base, *args, **kwargs)
        if probability == 0.0:
            product = h if bias is None else h - bias
        else:  # the base's own output is of the whole input, what is added to it of what dropout left
            x = dropout(x, probability)
            product = F.linear(x, self._weight(base).to(x.dtype))
        return h + ((c - 1) * product + c * low_rank(x, A, B)).to(h.dtype)

    def change(self, base: nn.Module, part: str) -> Tensor:
        D_OI = super().change(base, part)
        return D_OI if part == WHOLE else D_OI[self.rows_of(part)]

    def without_lengths(self) -> Update:
        parts = {part: self.delta_of(part) for part in self.parts}
        return LinearUpdate(parts, self.out_features, dict(self.rows.named_buffers()), self.stored_transposed)

    def lengths(self, base: nn.Module) -> Tensor:
        if WHOLE in self.parts:
            return self.magnitude
        return self._norms(base, self._settled()).index_copy(0, self._index(), self.magnitude)

    def _settled(self) -> Pair:
        return self.settled_factors()

    def _rows_of_weight(self, stored: Tensor) -> Tensor:
        return stored.T if self.stored_transposed else stored

    def _weight(self, base: nn.Module) -> Tensor:
        return self._rows_of_weight(tensor_of(base, WHOLE).detach())

    def _along(self, c_O: Tensor) -> Tensor:
        return c_O if self.stored_transposed else c_O[:, None]

    def _adapted(self, values_O: Tensor) -> Tensor:
        return values_O if WHOLE in self.parts else values_O[self._index()]

    def _spread(self, values: Tensor, like_O: Tensor) -> Tensor:
        return values if WHOLE in self.parts else torch.ones_like(like_O).index_copy(0, self._index(), values)

    def _index(self) -> Tensor:
        return torch.cat([self.rows_of(part) for part in self.parts])


class MagnitudeEmbedding(Magnitude, EmbeddingUpdate):
    """DoRA of an embedding [V, D]: one length for each of its D dimensions, over the whole vocabulary (as in PEFT)."""

    def __init__(self, parts: Mapping[str, LowRankDelta], dimensions: int) -> None:
        super().__init__(parts)
        self.keep_lengths((dimensions,), next(self.parameters()).device)

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h = EmbeddingUpdate.forward(self, base, *args, **kwargs)
        return (h * self.stretch(base, self.factors())).to(h.dtype)

    def without_lengths(self) -> Update:
        return EmbeddingUpdate({WHOLE: self.delta_of(WHOLE)})

    def _rows_of_weight(self, stored: Tensor) -> Tensor:
        return stored.T

    def _along(self, c_O: Tensor) -> Tensor:
        return c_O


class MagnitudeConv(Magnitude, ConvUpdate):
    """DoRA of a convolution without groups, one length per output channel. It runs by substitution: V is formed."""

    def __init__(self, parts: Mapping[str, LowRankDelta], channels: int) -> None:
        super().__init__(parts)
        whole = self.factors_of(WHOLE)
        self.keep_lengths((1, channels, *(1 for _ in whole.lora_A.shape[2:])), whole.lora_A.device)

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h: Tensor = Update.forward(self, base, *args, **kwargs)
        return h

    def change(self, base: nn.Module, part: str) -> Tensor:
        return super().change(base, part)[None]  # one group

    def without_lengths(self) -> Update:
        return ConvUpdate({WHOLE: self.delta_of(WHOLE)})

    def _rows_of_weight(self, stored: Tensor) -> Tensor:
        return stored.flatten(1)

    def _along(self, c_O: Tensor) -> Tensor:
        return c_O.view(-1, *(1 for _ in self.magnitude.shape[1:]))
