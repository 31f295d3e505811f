"""What is compiled for this processor: right by the type's rounding, the same bits for a row whoever is beside it."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import loralab as ll
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.native.compiled import library
from loralab.serving.engine.native.low_rank import LowRankKernel, low_rank_kernel
from loralab.serving.engine.request import Request
from serving.causal import LENGTH, adapt, answers, causal, plainly, prompts

COLUMNS = 12
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def other_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Whoever sets CXX gets what that compiles, and nobody after the test."""
    library.cache_clear()
    yield monkeypatch
    library.cache_clear()


def kernel_of(dtype: torch.dtype) -> LowRankKernel:
    kernel = low_rank_kernel(torch.empty(0, dtype=dtype))
    if isinstance(kernel, str) and kernel.startswith("no C++ compiler"):
        pytest.skip(kernel)
    assert isinstance(kernel, LowRankKernel), kernel
    return kernel


def drawn(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [1, 31, 96, 200])
def test_every_row_gets_its_own_adapters(dtype: torch.dtype, inputs: int) -> None:
    kernel, widths = kernel_of(dtype), (130, 1, 64)
    extents = [(0, 3), (3, 12), (5, 5), (0, 12), (11, 12)]
    x, y = drawn(dtype, len(extents), inputs + 4)[:, 2:-2], drawn(dtype, len(extents), 200)[:, : sum(widths) + 1]
    A, B = drawn(dtype, COLUMNS, len(widths), inputs), [drawn(dtype, COLUMNS, width) for width in widths]
    places = (0, 130, 132)
    expected, size = y.double(), y.double().abs()
    for row, (start, stop) in enumerate(extents):
        for p, (place, width) in enumerate(zip(places, widths, strict=True)):
            u = (A[start:stop, p].double() @ x[row].double()).to(dtype).double()
            expected[row, place : place + width] += u @ B[p][start:stop].double()
            summed = A[start:stop, p].double().abs() @ x[row].double().abs()
            size[row, place : place + width] += summed @ B[p][start:stop].double().abs()
    before = y.clone()
    kernel(y, places, x, torch.tensor(extents, dtype=torch.int32), A, B)
    assert ((y.double() - expected).abs() <= torch.finfo(dtype).eps * size).all()
    assert torch.equal(y[2], before[2])
    assert torch.equal(y[:, 131], before[:, 131])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_alone_and_among_others(dtype: torch.dtype) -> None:
    kernel, A, B = kernel_of(dtype), drawn(dtype, COLUMNS, 1, 77), [drawn(dtype, COLUMNS, 70)]
    x, extents = drawn(dtype, 33, 77), torch.tensor([(row % 5, row % 5 + 7) for row in range(33)], dtype=torch.int32)
    together, alone = torch.zeros(33, 70, dtype=dtype), torch.zeros(33, 70, dtype=dtype)
    kernel(together, [0], x, extents, A, B)
    for row in range(33):
        kernel(alone[row : row + 1], [0], x[row : row + 1], extents[row : row + 1], A, B)
    assert torch.equal(together, alone)
    assert together.abs().min() > 0


def test_what_is_no_number_stays_none() -> None:
    kernel, A, B = kernel_of(torch.bfloat16), torch.ones(1, 1, 4).bfloat16(), [torch.ones(1, 3).bfloat16()]
    x = torch.tensor([[torch.nan] * 4, [torch.inf] * 4]).bfloat16()
    y = torch.zeros(2, 3).bfloat16()
    kernel(y, [0], x, torch.tensor([[0, 1], [0, 1]], dtype=torch.int32), A, B)
    assert y[0].isnan().all()
    assert y[1].isposinf().all()


@pytest.mark.parametrize(
    ("cxx", "why"), [("no-such-compiler", r"found \(no-such-compiler\)"), ("false", "false failed"), ("true", "cannot")]
)
def test_without_a_compiler_torch_adds_the_same(other_compiler: pytest.MonkeyPatch, cxx: str, why: str) -> None:
    other_compiler.setenv("CXX", cxx)
    model = causal("llama")
    pairs = adapt(model, a=2, b=5)
    asked = list(zip(prompts(1, 30, 9), ("a", None, "b"), strict=True))
    expected = [plainly(model, prompt, who, 10) for prompt, who in asked]
    ll.detach(model)
    engine = Engine(model, EngineConfig(rows=3, chunk=8, length=LENGTH))
    assert re.search(f"adapters by torch's products: .*{why}", engine.how)
    for name, each in pairs.items():
        engine.hold(name, each)
    assert answers(engine, [Request(prompt=tuple(p), max_new_tokens=10, adapter=who) for p, who in asked]) == expected
