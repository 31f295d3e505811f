"""Dense products of few rows: y = x Wᵀ + b of one module, or of several that read the same input, side by side.

oneDNN multiplies a few rows by a weight in its own blocked layout about twice as fast as torch does by the weight as it
is, can add the residual in the same pass, and gives a row the same bits whatever rows are beside it. The layout is a
second copy of the weight; where it is not wanted, not to be had or not faster the modules' own weights are used.

Shapes: R rows, I inputs, O outputs of all modules together.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RUNS = (1, 2, 3, 7, 16, 33)
"""Rows that are tried alone and beside others."""
ROUNDS = 3
"""Times that two ways are measured against each other."""


_known_apart: dict[Hashable, frozenset[int]] = {}


class DenseProduct:
    """y = x Wᵀ + b of modules that read the same input, with their own weights."""

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        self._weights = [module.weight.detach() for module in modules]
        self._biases = [None if module.bias is None else module.bias.detach() for module in modules]
        ends = list(accumulate(len(weight) for weight in self._weights))
        self.places = [slice(end - len(weight), end) for weight, end in zip(self._weights, ends, strict=True)]
        """Where each module's outputs are."""

    @property
    def memory_bytes(self) -> int:
        """What it holds beside the model."""
        return 0

    @property
    def kind(self) -> tuple[object, ...]:
        """By what a kernel is chosen for it, beside its input: not by the numbers in the weights."""
        weight = self._weights[0]
        outputs = tuple((len(each), each.stride()) for each in self._weights)
        return weight.dtype, weight.device, outputs, tuple(each is None for each in self._biases)

    def __call__(self, x_RI: Tensor) -> Tensor:
        if len(self._weights) == 1:
            return F.linear(x_RI, self._weights[0], self._biases[0])
        y_RO = x_RI.new_empty(len(x_RI), self.places[-1].stop)
        for weight, bias, place in zip(self._weights, self._biases, self.places, strict=True):
            if bias is None:
                torch.mm(x_RI, weight.T, out=y_RO[:, place])
            else:
                torch.addmm(bias, x_RI, weight.T, out=y_RO[:, place])
        return y_RO

    def plus(self, residual_RO: Tensor, x_RI: Tensor) -> Tensor:
        """y + residual, which may be overwritten."""
        return residual_RO.add_(self(x_RI))


class PackedDense(DenseProduct):
    """The same with the weights in oneDNN's layout for a few rows."""

    def __init__(self, modules: Sequence[nn.Linear], rows: int) -> None:
        """Raises RuntimeError where oneDNN has no such layout for this processor and precision."""
        super().__init__(modules)
        self._kind = ("packed", rows, *super().kind)
        weight = self._weights[0] if len(modules) == 1 else torch.cat(self._weights)
        self._bytes = weight.nbytes
        self._bias = _one(self._biases, self._weights)
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        self._weights, self._biases = [], []

    @property
    def memory_bytes(self) -> int:
        return self._bytes

    @property
    def kind(self) -> tuple[object, ...]:
        return self._kind

    def __call__(self, x_RI: Tensor) -> Tensor:
        y_RO: Tensor = torch.ops.mkldnn._linear_pointwise(x_RI, self._packed, self._bias, "none", [], "")
        return y_RO

    def plus(self, residual_RO: Tensor, x_RI: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_RI, residual_RO, self._packed, self._bias, "add")
        return y


def packing_pays(modules: Sequence[nn.Linear], rows: int) -> bool:
    """Whether oneDNN's layout can be had for these and is faster, measured here and now."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if modules[0].weight.device.type != "cpu" or not has_onednn:
        return False
    x_RI = torch.ones(rows, modules[0].in_features, dtype=modules[0].weight.dtype)
    try:
        packed = PackedDense(modules, rows)
        own = DenseProduct(modules)
        seconds = [(_seconds(own, x_RI), _seconds(packed, x_RI)) for _ in range(ROUNDS)]
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return min(each for _, each in seconds) < min(each for each, _ in seconds)


def rows_apart(product: DenseProduct, in_features: int, like: Tensor, rows: int) -> frozenset[int]:
    """Of RUNS, how many rows next to each other have the bits alone that they have among so many rows.

    Every run of these rows is tried, once for all products of a kind: another kernel gives other bits to one row in
    some tens.
    """
    key = (product.kind, in_features, rows, torch.get_num_threads())
    if key not in _known_apart:
        _known_apart[key] = _tried_apart(product, in_features, like, rows)
    return _known_apart[key]


def _tried_apart(product: DenseProduct, in_features: int, like: Tensor, rows: int) -> frozenset[int]:
    drawn = torch.randn(rows, in_features, generator=torch.Generator().manual_seed(0))
    x_RI = drawn.to(like.device, like.dtype)
    together = product(x_RI)
    return frozenset(
        run
        for run in RUNS
        if all(
            torch.equal(product(x_RI[start : start + run]), together[start : start + run])
            for start in range(0, rows - run + 1, run)
        )
    )


def _seconds(product: Callable[[Tensor], Tensor], x: Tensor) -> float:
    begun = time.perf_counter()
    product(x)
    return time.perf_counter() - begun


def _one(biases: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor | None:
    """The biases below one another, zeros for those that have none; None where none has."""
    if all(bias is None for bias in biases):
        return None
    return torch.cat([w.new_zeros(len(w)) if b is None else b for b, w in zip(biases, weights, strict=True)])
