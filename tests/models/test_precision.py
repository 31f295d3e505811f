"""Which dtype is chosen and why, and the check that stands before oneDNN's float32."""

from collections.abc import Iterator

import pytest
import torch

from loralab.errors import SpecError
from loralab.models import precision
from loralab.models.precision import choose_dtype, float32_error, use_fast_float32

CPU = torch.device("cpu")


@pytest.fixture
def products() -> Iterator[object]:
    """The switch of oneDNN's float32 products, put back after the test."""
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    yield switch
    switch.fp32_precision = before


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_that_is_asked_for_is_taken(name: str) -> None:
    assert choose_dtype(name, CPU) == (getattr(torch, name), f"{name}, as asked")


def test_auto_says_why() -> None:
    dtype, reason = choose_dtype("auto", CPU)
    assert dtype in (torch.float32, torch.bfloat16)
    assert reason.startswith(str(dtype).removeprefix("torch."))
    assert "natively" in reason or "not faster" in reason


def test_auto_on_an_unknown_device_is_float32() -> None:
    dtype, reason = choose_dtype("auto", torch.device("meta"))
    assert dtype == torch.float32
    assert reason == "float32: whether meta multiplies bfloat16 natively is not known"


def test_a_dtype_that_is_none() -> None:
    with pytest.raises(SpecError, match=r"dtype 'int8' is not known; choose auto, float32, bfloat16, float16"):
        choose_dtype("int8", CPU)


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16", "bf16"])
@pytest.mark.parametrize("faster", [True, False])
def test_the_flag_and_the_measurement_must_agree(flag: str, faster: bool) -> None:
    capabilities = {"cpu_name": "Some CPU", flag: True, "avx2": True}
    native, reason = precision._cpu_bfloat16(capabilities, lambda: faster)
    assert native is faster
    assert "Some CPU" in reason
    assert flag in reason


def test_without_a_flag_nothing_is_measured() -> None:
    def never() -> bool:
        raise AssertionError("measured although the processor has no bfloat16")

    assert precision._cpu_bfloat16({"cpu_name": "Old", "avx512_bf16": False}, never)[0] is False


def test_products_are_full_float32_here() -> None:
    assert 1e-8 < float32_error() < precision.FULL_FLOAT32_ERROR


def test_the_check_would_notice_bfloat16() -> None:
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    rounded = left.bfloat16().float() @ right.bfloat16().float()
    exact = left.double() @ right.double()
    assert (rounded - exact).norm() / exact.norm() > 100 * precision.FULL_FLOAT32_ERROR


@pytest.mark.parametrize("name, slow", [("AMD EPYC 9B45", True), ("Intel Xeon", False)])
def test_mkl_is_slow_on_processors_that_are_not_intels(name: str, slow: bool) -> None:
    assert precision._mkl_is_slow(name) is (slow and torch._C.has_mkl)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")
@pytest.mark.parametrize("limit, kept", [(1.0, "bf16"), (0.0, "none")])
def test_onednn_is_kept_only_if_exact(
    products: torch.backends.mkldnn.MkldnnModule, monkeypatch: pytest.MonkeyPatch, limit: float, kept: str
) -> None:
    monkeypatch.setattr(precision, "_mkl_is_slow", lambda name: True)
    monkeypatch.setattr(precision, "FULL_FLOAT32_ERROR", limit)
    products.fp32_precision = "none"
    sentence = use_fast_float32()
    assert products.fp32_precision == kept
    assert ("full precision" in sentence) == (kept == "bf16")


def test_a_torch_that_says_nothing_of_the_processor_has_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As 2.9 does."""
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert precision.capabilities() == {}
    assert choose_dtype("auto", torch.device("cpu"))[0] == torch.float32
