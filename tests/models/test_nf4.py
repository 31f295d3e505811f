"""NF4: the code book, what packing loses, the layer's two passes, and which layers of a model are packed."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.special import ndtri
from transformers.pytorch_utils import Conv1D

import small_models
from loralab.errors import NumericsError, TargetError
from loralab.models.nf4 import (
    ABSMAX_BLOCK,
    BLOCK,
    LEVELS,
    QuantizedLinear,
    dequantise,
    dequantise_absmax,
    quantise,
    quantise_absmax,
    quantize_model,
    quantized_layers,
)

SHAPES = [(64,), (8, 64), (7, 13), (5, 129), (1, 1), (3, 4, 33)]
WIDEST_HALF_GAP = 0.152
"""Half the distance of the two lowest levels: the largest error, in units of the block's absmax."""


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def there_and_back(weight: Tensor) -> Tensor:
    return dequantise(*quantise(weight), tuple(weight.shape), weight.dtype)


def absmax_of_each(weight: Tensor) -> Tensor:
    """For every weight the absmax of its block, by slicing."""
    flat = weight.float().reshape(-1)
    each = [part.abs().max().expand(len(part)) for part in torch.split(flat, BLOCK)]
    return torch.cat(each).view(weight.shape)


def test_the_code_book_is_the_published_one() -> None:
    published = (
        "-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334 "
        "-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224 "
        "0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0"
    )
    assert tuple(float(level) for level in published.split()) == LEVELS
    assert torch.tensor(LEVELS).double().tolist() == list(LEVELS)  # each is a float32


def test_the_code_book_is_what_its_definition_gives() -> None:
    above = ndtri(torch.linspace(0.9677083, 0.5, 9, dtype=torch.float64))
    below = ndtri(torch.linspace(0.9677083, 0.5, 8, dtype=torch.float64))
    derived = torch.cat([-below[:-1], torch.zeros(1), above[:-1].flip(0)]) / above[0]
    assert torch.allclose(derived, torch.tensor(LEVELS, dtype=torch.float64), atol=1e-6)


def test_levels_times_absmax_come_back_exactly() -> None:
    absmax = torch.tensor([1.0, 3.7e-5, 123.456, 2.0**-20])
    weight = absmax[:, None] * torch.tensor(LEVELS).repeat(4)
    codes, found = quantise(weight)
    assert torch.equal(found, absmax)
    assert torch.equal(dequantise(codes, found, (4, 64)), weight)
    assert codes[:8].tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_error_is_at_most_half_the_widest_gap(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = random(*shape, dtype=dtype)
    back = there_and_back(weight)
    assert (back.shape, back.dtype) == (weight.shape, dtype)
    assert len(quantise(weight)[0]) == 32 * -(-weight.numel() // 64)
    rounding = torch.finfo(dtype).eps if dtype.itemsize < 4 else 1e-7
    assert ((back.float() - weight.float()).abs() <= (WIDEST_HALF_GAP + rounding) * absmax_of_each(weight)).all()


def test_every_weight_gets_its_nearest_level() -> None:
    weight = random(16, 64)
    unit = weight / absmax_of_each(weight)
    nearest = (unit[..., None] - torch.tensor(LEVELS)).abs().min(-1).values
    off = ((there_and_back(weight) / absmax_of_each(weight)) - unit).abs()
    assert torch.allclose(off, nearest, atol=1e-6)
    assert all(low < high for low, high in pairwise(LEVELS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_packed_is_packed_to_the_same(dtype: torch.dtype) -> None:
    once = there_and_back(random(37, 53, dtype=dtype))
    assert torch.equal(there_and_back(once), once)


def test_zeros_stay_zeros_and_tiny_blocks_do_not_overflow() -> None:
    assert torch.equal(there_and_back(torch.zeros(3, 50)), torch.zeros(3, 50))
    tiny = torch.full((64,), 1e-42)
    assert torch.equal(there_and_back(tiny), tiny)


def test_more_blocks_than_are_packed_at_once() -> None:
    weight = random(2**14 + 3, 64)
    codes, absmax = quantise(weight)
    last = quantise(weight[-5:])
    assert torch.equal(codes[-160:], last[0])
    assert torch.equal(absmax[-5:], last[1])


@pytest.mark.parametrize("count", [1, 256, 300, 1000])
def test_double_quantisation_is_off_by_half_a_step(count: int) -> None:
    absmax = random(count).abs()
    codes, scales, mean = quantise_absmax(absmax)
    assert (codes.dtype, len(codes), len(scales)) == (torch.int8, count, -(-count // ABSMAX_BLOCK))
    largest = torch.cat([part.abs().max().expand(len(part)) for part in torch.split(absmax - absmax.mean(), 256)])
    off = (dequantise_absmax(codes, scales, mean) - absmax).abs()
    assert (off <= largest / 254 + 1e-6).all()


def test_equal_absmax_are_double_quantised_without_error() -> None:
    absmax = torch.full((300,), 0.5)
    assert torch.equal(dequantise_absmax(*quantise_absmax(absmax)), absmax)


# -- the layer -------------------------------------------------------------------------------------------------


def layer_and_dense(dtype: torch.dtype, double: bool = False) -> tuple[QuantizedLinear, nn.Linear]:
    """A quantised layer, and a plain one of its dequantised weight."""
    torch.manual_seed(0)
    packed = QuantizedLinear.of(nn.Linear(70, 30).to(dtype), double=double)
    dense = nn.Linear(70, 30).to(dtype)
    with torch.no_grad():
        dense.weight.copy_(packed.weight)
        dense.bias.copy_(packed.bias)
    return packed, dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("double", [False, True])
def test_output_and_gradients_are_those_of_the_dequantised_layer(dtype: torch.dtype, double: bool) -> None:
    packed, dense = layer_and_dense(dtype, double)
    inputs = [random(2, 5, 70, dtype=dtype).requires_grad_() for _ in range(2)]
    for layer, x in zip((packed, dense), inputs, strict=True):
        h = layer(x)
        (h * torch.arange(30).to(dtype)).sum().backward()
    assert torch.equal(packed(inputs[0]), dense(inputs[1]))
    assert torch.allclose(inputs[0].grad, inputs[1].grad)
    assert torch.allclose(packed.bias.grad, dense.bias.grad)


def test_nothing_is_kept_for_the_backward_pass() -> None:
    packed, dense = layer_and_dense(torch.float32)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        packed.requires_grad_(False)(random(9, 70).requires_grad_())
    assert kept == []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        dense.requires_grad_(False)(random(9, 70).requires_grad_())
    assert kept


def test_gradients_under_autocast_have_the_inputs_precision() -> None:
    packed, _ = layer_and_dense(torch.float32)
    x = random(4, 70).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        h = packed(x)
    h.sum().backward()
    assert (h.dtype, x.grad.dtype) == (torch.bfloat16, torch.float32)
    assert torch.allclose(x.grad, packed.weight.sum(0).expand(4, 70), rtol=0.02, atol=0.02)


def test_a_conv1d_is_packed_the_other_way_round() -> None:
    torch.manual_seed(0)
    conv = Conv1D(96, 64)
    packed = QuantizedLinear.of(conv)
    assert (packed.in_features, packed.out_features, packed.stands_for) == (64, 96, "Conv1D")
    assert torch.equal(packed.weight, there_and_back(conv.weight.T.contiguous()))
    conv.weight.data = packed.weight.T.contiguous()
    x = random(2, 3, 64)
    assert torch.allclose(packed(x), conv(x), atol=1e-6)


@pytest.mark.parametrize("double", [False, True])
def test_the_state_comes_back(double: bool) -> None:
    packed, _ = layer_and_dense(torch.float32, double)
    packed.origin = "of the first"
    torch.manual_seed(1)
    other = QuantizedLinear.of(nn.Linear(70, 30), double=double, remember=lambda weight: "of the other")
    assert other.origin == "of the other"
    assert not torch.equal(other.weight, packed.weight)
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other.weight, packed.weight)
    assert other.origin is None  # it does not claim to be what it was


def test_another_precision_changes_no_level() -> None:
    packed, _ = layer_and_dense(torch.float32)
    before = packed.weight
    packed.to(torch.bfloat16)
    assert (packed.weight.dtype, packed.bias.dtype) == (torch.bfloat16, torch.bfloat16)
    assert packed.get_buffer("absmax").dtype == torch.float32
    assert torch.equal(packed.weight, before.to(torch.bfloat16))
    assert torch.equal(copy.deepcopy(packed).float().weight, before)


def test_it_takes_half_a_byte_and_a_share_of_the_absmax() -> None:
    packed = QuantizedLinear(random(256, 512))
    assert packed.packed_bytes == 256 * 512 // 2 + 4 * 256 * 512 // 64
    double = QuantizedLinear(random(256, 512), double=True)
    assert double.packed_bytes == 256 * 512 // 2 + 256 * 512 // 64 + 4 * 8 + 4


# -- a model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", small_models.MODELS)
def test_the_dense_layers_of_the_blocks_are_packed_and_no_others(name: str) -> None:
    model = small_models.build(name)
    dense = {path for path, each in model.named_modules() if isinstance(each, (nn.Linear, Conv1D))}
    heads = {"lm_head", "classifier", "pooler.dense", "classifier.dense", "classifier.out_proj", "bert.pooler.dense"}
    found = quantize_model(model)
    packed = {path for path, each in model.named_modules() if isinstance(each, QuantizedLinear)}
    assert packed == dense - heads
    assert found.layers == len(packed) > 0
    assert found.weights == sum(layer.weights for layer in quantized_layers(model))
    assert found.bytes_after < 0.4 * found.bytes_before


@pytest.mark.parametrize("name", small_models.MODELS)
def test_a_packed_model_computes_what_the_unpacked_one_does(name: str) -> None:
    packed, unpacked = small_models.build(name), small_models.build(name)
    before = small_models.logits(packed)
    quantize_model(packed)
    dense = dict(unpacked.named_modules())
    with torch.no_grad():
        for path, layer in packed.named_modules():
            if isinstance(layer, QuantizedLinear):
                weight = layer.weight if layer.stands_for == "Linear" else layer.weight.T
                dense[path].weight.copy_(weight)
    assert torch.allclose(small_models.logits(packed), small_models.logits(unpacked), atol=1e-5)
    assert not torch.allclose(small_models.logits(packed), before, atol=1e-5)


def test_a_shared_layer_is_packed_once() -> None:
    model = small_models.build("llama")
    first, second = model.model.layers[0].mlp, model.model.layers[1].mlp
    second.up_proj = first.up_proj
    assert quantize_model(model).layers == 3 * 7 - 1
    assert first.up_proj is second.up_proj


def test_parameters_stay_the_same_objects_and_tied() -> None:
    model = small_models.build("gpt2")
    before = {name: (each, each.clone()) for name, each in model.named_parameters() if ".h." not in name}
    quantize_model(model)
    after = dict(model.named_parameters())
    for name, (parameter, values) in before.items():
        assert after[name] is parameter
        assert torch.equal(parameter, values)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_weights_that_are_not_finite_are_named_and_nothing_is_packed() -> None:
    model = small_models.build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match=r"model\.layers\.1\.mlp\.up_proj"):
        quantize_model(model)
    assert not list(quantized_layers(model))


def test_a_model_of_unknown_blocks_is_refused() -> None:
    with pytest.raises(TargetError, match="Sequential"):
        quantize_model(nn.Sequential(nn.Linear(4, 4)))


def test_on_no_device_it_only_counts() -> None:
    with torch.device("meta"):
        model = small_models.llama()
    on_meta = quantize_model(model)
    assert on_meta == quantize_model(small_models.build("llama"))
    assert F.linear(torch.empty(1, 32, device="meta"), next(quantized_layers(model)).weight).shape == (1, 32)
