"""What is compiled for this processor: right by the type's rounding, the same bits for a row whoever is beside it."""

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

import loralab as ll
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.fused.attention import Turn
from loralab.serving.engine.fused.gates import gate_of
from loralab.serving.engine.native.attention import Paths, Runs
from loralab.serving.engine.native.compiled import library
from loralab.serving.engine.native.gate import SILU
from loralab.serving.engine.native.kernels import Kernels, kernels_for
from loralab.serving.engine.native.low_rank import LowRankFactors
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


def kernels_of(dtype: torch.dtype) -> Kernels:
    kernels = kernels_for(torch.empty(0, dtype=dtype))
    if isinstance(kernels, str) and kernels.startswith("no C++ compiler"):
        pytest.skip(kernels)
    assert isinstance(kernels, Kernels), kernels
    return kernels


def drawn(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [1, 31, 96, 200])
def test_every_row_gets_its_own_adapters(dtype: torch.dtype, inputs: int) -> None:
    kernel, widths = kernels_of(dtype).add_low_rank, (130, 1, 64)
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
    kernel(y, x, torch.tensor(extents, dtype=torch.int32), LowRankFactors(A, B, places))
    assert ((y.double() - expected).abs() <= 2 * torch.finfo(dtype).eps * size).all()
    assert torch.equal(y[2], before[2])
    assert torch.equal(y[:, 131], before[:, 131])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_alone_and_among_others(dtype: torch.dtype) -> None:
    kernel = kernels_of(dtype).add_low_rank
    A, B = drawn(dtype, COLUMNS, 1, 77), [drawn(dtype, COLUMNS, 70)]
    x, extents = drawn(dtype, 33, 77), torch.tensor([(row % 5, row % 5 + 7) for row in range(33)], dtype=torch.int32)
    together, alone = torch.zeros(33, 70, dtype=dtype), torch.zeros(33, 70, dtype=dtype)
    factors = LowRankFactors(A, B, [0])
    kernel(together, x, extents, factors)
    for row in range(33):
        kernel(alone[row : row + 1], x[row : row + 1], extents[row : row + 1], factors)
    assert torch.equal(together, alone)
    assert together.abs().min() > 0


class Attending:
    """Rows of one width whose tokens begin in different columns of a cache, and what they attend to in float64."""

    def __init__(self, dtype: torch.dtype, width: int, turned: int, window: int | None, cap: float | None) -> None:
        self.firsts, self.now, self.window, self.cap = [0, 36, 47, 48], 48, window, cap
        rows, heads, groups, columns = len(self.firsts), 6, 2, 60
        self.qkv = drawn(dtype, rows, (heads + 2 * groups) * width).view(rows, -1, width)
        self.query, self.key, self.value = self.qkv.split([heads, groups, groups], 1)
        self.cos, self.sin = drawn(dtype, rows, 1, turned), drawn(dtype, rows + 1, 1, turned)[1:]
        self.keys, self.values = drawn(dtype, rows, groups, columns, width), drawn(dtype, rows, groups, columns, width)

    def by_kernel(self, place: slice = slice(None)) -> Tensor:
        firsts = torch.tensor(self.firsts, dtype=torch.int32)
        return kernels_of(self.keys.dtype).attend(
            *(each[place] for each in (self.query, self.key, self.value, self.cos, self.sin, self.keys, self.values)),
            Runs(firsts[place], self.now), self.window, 0.3, self.cap,
        )  # fmt: skip

    def in_float64(self) -> Tensor:
        """By the definition, with the rounding of what goes into the cache."""
        turn, rows = Turn(self.cos, self.sin), []
        query, keys, values = turn(self.query).double(), self.keys.double(), self.values.double()
        keys[:, :, self.now], values[:, :, self.now] = turn(self.key).double(), self.value.double()
        for row, first in enumerate(self.firsts):
            begin = first if self.window is None else max(first, self.now + 1 - self.window)
            k, v = keys[row, :, begin : self.now + 1], values[row, :, begin : self.now + 1]
            scores = query[row].view(2, 3, -1) @ k.mT * 0.3
            scores = scores if self.cap is None else self.cap * (scores / self.cap).tanh()
            rows.append((scores.softmax(-1) @ v).flatten())
        return torch.stack(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("width", "turned", "window", "cap"), [(64, 64, None, None), (80, 40, 7, 2.0), (24, 24, 13, None), (1, 0, 1, 1.0)]
)
def test_a_row_attends_to_its_own_tokens(
    dtype: torch.dtype, width: int, turned: int, window: int | None, cap: float | None
) -> None:
    case = Attending(dtype, width, turned, window, cap)
    expected, attended = case.in_float64(), case.by_kernel()
    assert (attended.double() - expected).abs().max() <= 8 * torch.finfo(dtype).eps * expected.abs().max()
    # a compiler may join a product and a sum in one rounding, which in bfloat16 none of these numbers shows
    torch.testing.assert_close(case.keys[:, :, case.now], Turn(case.cos, case.sin)(case.key), rtol=1e-5, atol=1e-5)
    assert torch.equal(case.values[:, :, case.now], case.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neither_columns_before_a_row_nor_rows_beside_it_change_a_bit(dtype: torch.dtype) -> None:
    case = Attending(dtype, 64, 64, None, None)
    together = case.by_kernel()
    assert torch.equal(torch.cat([case.by_kernel(slice(row, row + 1)) for row in range(4)]), together)
    shift = 7
    case.now, case.firsts = case.now + shift, [first + shift for first in case.firsts]
    case.keys, case.values = case.keys.roll(shift, 2), case.values.roll(shift, 2)
    assert torch.equal(case.by_kernel(), together)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_path_through_columns_is_attended_to_as_a_run_is(dtype: torch.dtype, window: int | None) -> None:
    """Two rows in each of two lines, whose tokens lie anywhere in columns that other rows have others in."""
    case = Attending(dtype, 64, 64, window, None)
    as_runs, counts = case.by_kernel(), [case.now + 1 - first for first in case.firsts]
    places = torch.randperm(160, generator=torch.Generator().manual_seed(0))[: 2 * 60].view(2, 60).sort(1).values
    paths = torch.stack([places[row % 2, torch.randperm(60)] for row in range(4)]).int()
    lines, kept = torch.tensor([0, 0, 1, 1]), torch.zeros(2, 2, 2, 160, 64, dtype=dtype)
    for row, (line, first, count) in enumerate(zip(lines, case.firsts, counts, strict=True)):
        for room, each in zip(kept, (case.keys, case.values), strict=True):
            room[line][:, paths[row, :count].long()] = each[row, :, first : case.now + 1]
    attended = kernels_of(dtype).attend(
        case.query, case.key, case.value, case.cos, case.sin, *kept,
        Paths(lines.int(), paths, torch.tensor(counts, dtype=torch.int32)), window, 0.3, None,
    )  # fmt: skip
    assert torch.equal(attended, as_runs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_is_rounded_once(dtype: torch.dtype) -> None:
    x, gain = 30 * drawn(dtype, 5, 4, 96)[:, 1:3], torch.linspace(0.5, 2, 96)
    expected = torch.nn.functional.rms_norm(x.double(), (96,), gain.double(), 1e-5)
    y = kernels_of(dtype).normalise(x, gain, 1e-5)
    assert y.shape == x.shape
    assert ((y.double() - expected).abs() <= 2 * torch.finfo(dtype).eps * expected.abs()).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh"])
def test_a_gate_is_the_activations(dtype: torch.dtype, name: str) -> None:
    gate_up, gate = 4 * drawn(dtype, 5, 2 * 77), kernels_of(dtype).gate
    expected = ACT2FN[name](gate_up[:, :77].double()) * gate_up[:, 77:].double()
    y, by_torch = (gate_of(ACT2FN[name], each)(gate_up.clone()) for each in (gate, None))
    size = (gate_up[:, :77] * gate_up[:, 77:]).double().abs()
    assert ((y.double() - expected).abs() <= 2 * torch.finfo(dtype).eps * size).all()
    assert not torch.equal(y, by_torch) or dtype == torch.bfloat16  # that the kernel was taken


@pytest.mark.parametrize("name", ["gelu", "relu", "quick_gelu", "relu2", "laplace", "hardswish"])
def test_what_only_resembles_a_known_activation_is_left_to_torch(name: str) -> None:
    gate_up = 4 * drawn(torch.bfloat16, 5, 2 * 77)
    expected = ACT2FN[name](gate_up[:, :77]) * gate_up[:, 77:]
    assert torch.equal(gate_of(ACT2FN[name], kernels_of(torch.bfloat16).gate)(gate_up.clone()), expected)


def test_what_is_no_number_stays_none() -> None:
    kernel = kernels_of(torch.bfloat16).add_low_rank
    A, B = torch.ones(1, 1, 4).bfloat16(), [torch.ones(1, 3).bfloat16()]
    x = torch.tensor([[torch.nan] * 4, [torch.inf] * 4]).bfloat16()
    y = torch.zeros(2, 3).bfloat16()
    kernel(y, x, torch.tensor([[0, 1], [0, 1]], dtype=torch.int32), LowRankFactors(A, B, [0]))
    assert y[0].isnan().all()
    assert y[1].isposinf().all()
    case = Attending(torch.bfloat16, 64, 64, None, None)
    case.query[1] = torch.nan
    case.value[2] = torch.nan
    assert case.by_kernel().isnan().all(1).tolist() == [False, True, True, False]


def test_numbers_of_another_type_are_refused_and_not_read_as_what_they_are_not() -> None:
    kernels, other = kernels_of(torch.float32), torch.ones(2, 4).bfloat16()
    case = Attending(torch.float32, 64, 64, None, None)
    case.query = case.query.bfloat16()
    factors = LowRankFactors(torch.ones(1, 1, 4), [torch.ones(1, 4)], [0])
    calls: list[Callable[[], object]] = [
        case.by_kernel,
        lambda: kernels.normalise(other, torch.ones(4), 1e-5),
        lambda: kernels.gate(other, SILU),
        lambda: kernels.add_low_rank(torch.ones(2, 4), other, torch.zeros(2, 2, dtype=torch.int32), factors),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"kernel for torch\.float32 on the CPU was given torch\.bfloat16"):
            call()


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
    assert re.search(f"no compiled kernels, for .*{why}", engine.how)
    for name, each in pairs.items():
        engine.hold(name, each)
    assert answers(engine, [Request(prompt=tuple(p), max_new_tokens=10, adapter=who) for p, who in asked]) == expected
