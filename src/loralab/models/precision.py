"""In which number format this machine multiplies best, found by asking it.

On a CPU bfloat16 pays only where the processor multiplies it natively; elsewhere it is emulated, and
several times slower than float32. float32 products go through MKL, which is half as fast as oneDNN on
processors that are not Intel's (measured on Zen 5: 190 against 400 GFLOP/s; on an Intel Xeon no
difference).
"""

import time
from collections.abc import Callable, Mapping
from functools import cache

import torch

from loralab.errors import SpecError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16", "avx10_2", "bf16")
"""Any of these among the processor's capabilities means that it multiplies bfloat16 itself."""
FULL_FLOAT32_ERROR = 1e-6
"""Relative (Frobenius) error that a float32 product may have; bfloat16 rounding gives about 2e-3."""
_ROWS, _INNER, _OUTER = 256, 576, 576


def choose_dtype(requested: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype for the frozen base, and one sentence that says why.

    "auto" is bfloat16 where `device` multiplies it natively, else float32. Raises `SpecError` for another
    name.
    """
    if requested in DTYPES:
        return DTYPES[requested], f"{requested}, as asked"
    if requested != "auto":
        raise SpecError(f"dtype {requested!r} is not known; choose auto, {', '.join(DTYPES)}")
    native, reason = _native_bfloat16(device)
    return (torch.bfloat16 if native else torch.float32), reason


def _native_bfloat16(device: torch.device) -> tuple[bool, str]:
    """Whether `device` multiplies bfloat16 itself, and the sentence for it."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        chosen, does = ("bfloat16", "does") if native else ("float32", "does not")
        return native, f"{chosen}: {torch.cuda.get_device_name(device)} {does} multiply bfloat16 natively"
    if device.type != "cpu":
        return False, f"float32: whether {device.type} multiplies bfloat16 natively is not known"
    return _cpu_bfloat16(capabilities(), lambda: _seconds(torch.bfloat16) < _seconds(torch.float32))


def _cpu_bfloat16(capabilities: Mapping[str, object], faster: Callable[[], bool]) -> tuple[bool, str]:
    """The processor's word, and where it says yes, a measurement (`faster`) that it holds here."""
    name = str(capabilities.get("cpu_name") or capabilities.get("architecture") or "this processor")
    flag = _native_flag(capabilities)
    if flag is None:
        return False, f"float32: {name} does not multiply bfloat16 natively"
    if not faster():
        return False, f"float32: {name} has {flag}, but bfloat16 products are not faster than float32 here"
    return True, f"bfloat16: {name} multiplies it natively ({flag})"


def capabilities() -> Mapping[str, object]:
    """What torch says of the processor: its `cpu_name`, and which instructions it has. Older ones (2.9) say nothing, so
    that float32 is chosen."""
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def _native_flag(capabilities: Mapping[str, object]) -> str | None:
    return next((flag for flag in NATIVE_BFLOAT16 if capabilities.get(flag)), None)


@cache
def multiplies_bfloat16() -> bool:
    """Whether the processor says that it multiplies bfloat16 itself."""
    return _native_flag(capabilities()) is not None


def use_fast_float32() -> str:
    """Send float32 matrix products on the CPU through oneDNN where that is known to be faster and found
    exact.

    Which processor it is and the error decide, not a stopwatch, so that one machine always decides alike
    and a resumed run computes the same bits. Returns one sentence that says what was decided; a rejected
    setting is undone.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "float32 products: as torch does them (oneDNN is not in this build)"
    name = str(capabilities().get("cpu_name", "this processor"))
    if not _mkl_is_slow(name):
        return f"float32 products: as torch does them (oneDNN is not known to be faster on {name})"
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set on the module at run time
    before = products.fp32_precision
    # The only switch that reaches oneDNN. It permits bfloat16; without AMX oneDNN does not take the
    # permission.
    products.fp32_precision = "bf16"
    error = float32_error()
    if error > FULL_FLOAT32_ERROR:
        products.fp32_precision = before
        return f"float32 products: as torch does them (oneDNN would round them: relative error {error:.1e})"
    return f"float32 products: oneDNN, at full precision (relative error {error:.1e})"


def _mkl_is_slow(cpu_name: str) -> bool:
    """MKL keeps its fast kernels for Intel's processors; only x86 builds of torch have MKL."""
    return bool(torch._C.has_mkl) and "intel" not in cpu_name.lower()


def float32_error() -> float:
    """The largest relative error, against float64, of the three products of a linear layer in training."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, _INNER, generator=generator)
    weight = torch.randn(_OUTER, _INNER, generator=generator)
    gradient = torch.randn(_ROWS, _OUTER, generator=generator)
    pairs = [(x, weight.T), (gradient, weight), (gradient.T, x)]
    return max(_relative_error(left, right) for left, right in pairs)


def _relative_error(left: torch.Tensor, right: torch.Tensor) -> float:
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())


def _seconds(dtype: torch.dtype, repeats: int = 7) -> float:
    """The processor time of the shortest of some products in `dtype`, on one thread: what else runs does not count."""
    left, right = torch.ones(_ROWS, _INNER, dtype=dtype), torch.ones(_INNER, _OUTER, dtype=dtype)
    threads, shortest = torch.get_num_threads(), float("inf")
    torch.set_num_threads(1)
    try:
        for _ in range(repeats):
            start = time.thread_time()
            torch.mm(left, right)
            shortest = min(shortest, time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return shortest
