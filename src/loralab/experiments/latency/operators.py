"""Which operators a forward pass executes, on which tensors: proof that a merged model computes what its base does."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], object]
"""One forward pass."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One call of an operator: its name, and the layout of every tensor that went in."""

    name: str
    inputs: tuple[tuple[Shape, Shape, torch.dtype], ...]
    """Shape, strides and dtype of each."""


@dataclass(frozen=True)
class Execution:
    """What one forward pass did, in its order, and its floating-point operations in products of matrices."""

    operators: tuple[Operator, ...]
    flops: int


@dataclass(frozen=True)
class OperatorCount:
    """An execution beside the base's."""

    operators: int
    extra_operators: int
    """Calls of operators with inputs that the base has not."""
    extra_flops: int
    equal: bool
    """Whether the two sequences are the same in every name, shape, stride and dtype."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    """Notes every operator that comes by, and lets it do what it does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.executed: list[Operator] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self.executed.append(Operator(str(func), tuple((tuple(t.shape), t.stride(), t.dtype) for t in tensors)))
        return func(*args, **(kwargs or {}))


def _addmm_flops(sum_NO: Shape, left_NI: Shape, right_IO: Shape, out_shape: object = None, **scales: object) -> int:
    """Of sum += left·right, from the shapes alone."""
    return 2 * left_NI[0] * left_NI[1] * right_IO[1]


IN_PLACE = {torch.ops.aten.addmm_: _addmm_flops}
"""A product that torch's counter does not know; live LoRA adds its update by it."""


def record(call: Call) -> Execution:
    """The operators of one pass, and the FLOPs of another. `call` is under inference mode by itself."""
    with _Recorder() as recorder:
        call()
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        call()
    return Execution(tuple(recorder.executed), int(counter.get_total_flops()))


def compare_operators(base: Execution, others: Mapping[str, Execution]) -> dict[str, OperatorCount]:
    """Each execution beside the base's."""
    return {name: _compare(base, other) for name, other in others.items()}


def _compare(base: Execution, other: Execution) -> OperatorCount:
    extra = Counter(other.operators) - Counter(base.operators)
    return OperatorCount(
        operators=len(other.operators),
        extra_operators=extra.total(),
        extra_flops=other.flops - base.flops,
        equal=other.operators == base.operators,
    )
