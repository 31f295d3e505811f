"""The kernels for one type of numbers: compiled, and tried against torch before anything is left to them."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from loralab.nn.trial import agree
from loralab.serving.engine.native.attention import AttentionKernel, Paths, Runs, attended_by_torch
from loralab.serving.engine.native.compiled import library
from loralab.serving.engine.native.gate import GATE_ARGUMENTS, SILU, GateKernel
from loralab.serving.engine.native.low_rank import LOW_RANK_ARGUMENTS, LowRankFactors, LowRankKernel
from loralab.serving.engine.native.norm import NORM_ARGUMENTS, NormKernel

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Kernels:
    """What is compiled, for numbers of one type in the processor's memory."""

    add_low_rank: LowRankKernel
    attend: AttentionKernel
    normalise: NormKernel
    gate: GateKernel


def kernels_for(like: Tensor) -> Kernels | str:
    """For numbers of this type on this device; or why there are none."""
    name = NAMES.get(like.dtype)
    if like.device.type != "cpu" or name is None:
        return f"there are none for {str(like.dtype).removeprefix('torch.')} on {like.device.type}"
    built = library()
    if isinstance(built, str):
        return built
    kernels = Kernels(
        LowRankKernel(_of(built, f"add_low_rank_{name}", LOW_RANK_ARGUMENTS), like.dtype),
        AttentionKernel(_of(built, f"attend_{name}", [ctypes.c_void_p]), like.dtype),
        NormKernel(_of(built, f"rms_norm_{name}", NORM_ARGUMENTS), like.dtype),
        GateKernel(_of(built, f"gate_{name}", GATE_ARGUMENTS), like.dtype),
    )
    are_right = all(tried(kernels, like.dtype) for tried in (_adds, _attends, _normalises, _gates))
    return kernels if are_right else "what was compiled computes something else than torch"


def _of(built: ctypes.CDLL, name: str, arguments: Sequence[Any]) -> Callable[..., None]:
    function: Any = getattr(built, name)
    function.argtypes, function.restype = arguments, None
    return function  # type: ignore[no-any-return]


def _drawn(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=source).to(dtype) for shape in shapes]


def _adds(kernels: Kernels, dtype: torch.dtype) -> bool:
    """Whether three rows of two modules get what torch adds to them."""
    widths, seen = (70, 9), [(0, 4), (2, 2), (4, 7)]
    x_NI, A_CPI, *Bs = _drawn(dtype, (3, 50), (7, 2, 50), *((7, width) for width in widths))
    y_NO = torch.zeros(3, sum(widths), dtype=dtype)
    factors = LowRankFactors(A_CPI, Bs, (0, widths[0]))
    kernels.add_low_rank(y_NO, x_NI, torch.tensor(seen, dtype=torch.int32), factors)
    rows = [
        torch.cat([x @ A_CPI[start:stop, p].T @ B[start:stop] for p, B in enumerate(Bs)])
        for x, (start, stop) in zip(x_NI, seen, strict=True)
    ]
    return agree(torch.stack(rows), y_NO)


def _attends(kernels: Kernels, dtype: torch.dtype) -> bool:
    """Whether two rows attend to what torch has them attend to: to runs of columns, and along paths through them."""
    runs = [(0, range(40)), (1, range(33, 40))]
    paths = [(1, [0, 1, 2, 9]), (1, [0, 5, 3])]
    columns_RP = torch.tensor([[0, 1, 2, 9], [0, 5, 3, -1]], dtype=torch.int32)
    as_runs = Runs(torch.tensor([0, 33], dtype=torch.int32), now=39)
    as_paths = Paths(torch.ones(2, dtype=torch.int32), columns_RP, torch.tensor([4, 3], dtype=torch.int32))
    return _attends_to(kernels, dtype, runs, as_runs) and _attends_to(kernels, dtype, paths, as_paths)


def _attends_to(
    kernels: Kernels, dtype: torch.dtype, seen: Sequence[tuple[int, Sequence[int]]], tokens: Runs | Paths
) -> bool:
    """The line and the columns that each row sees, and the same as the kernel is told; nothing turns a head."""
    keys, values, query = _drawn(dtype, (2, 1, 40, 70), (2, 1, 40, 70), (2, 3, 70))
    key, value = (torch.stack([each[line, :, columns[-1]] for line, columns in seen]) for each in (keys, values))
    cos, sin = query.new_ones(2, 1, 70), query.new_zeros(2, 1, 70)
    attended = kernels.attend(
        query, key, value, cos, sin, keys.clone(), values.clone(), tokens, window=None, scale=0.1, cap=None
    )
    return agree(attended_by_torch(query, keys, values, seen, 0.1), attended)


def _normalises(kernels: Kernels, dtype: torch.dtype) -> bool:
    x_NH, gain_H = _drawn(dtype, (3, 70))[0], torch.linspace(0.5, 2, 70)
    return agree(F.rms_norm(x_NH.float(), (70,), gain_H, 1e-6).to(dtype), kernels.normalise(x_NH, gain_H, 1e-6))


def _gates(kernels: Kernels, dtype: torch.dtype) -> bool:
    g, u = _drawn(dtype, (3, 70), (3, 70))
    return agree(F.silu(g) * u, kernels.gate(torch.cat((g, u), 1), SILU))
