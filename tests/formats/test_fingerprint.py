"""The fingerprint knows one checkpoint in every precision, and tells another one."""

import json

import pytest
import torch
from torch import Tensor, nn

from loralab.errors import FingerprintError
from loralab.formats.fingerprint import Fingerprint, TensorPrint, fingerprint


def of(weight: Tensor, module: type[nn.Module] = nn.Linear) -> Fingerprint:
    """The fingerprint of a model whose one adapted module, `inner`, has this weight."""
    inner = module(weight.shape[1], weight.shape[0], bias=False)
    inner.weight = nn.Parameter(weight, requires_grad=False)
    return fingerprint([("inner", inner, ["weight"])], None)


WEIGHT = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loaded", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_checkpoint_in_any_precision(stored: torch.dtype, loaded: torch.dtype) -> None:
    checkpoint = WEIGHT.to(stored)
    of(checkpoint).check(of(checkpoint.to(loaded)))
    of(checkpoint.to(loaded)).check(of(checkpoint))


@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16, torch.float16])
def test_another_checkpoint_is_told(loaded: torch.dtype) -> None:
    other = WEIGHT + 0.01 * torch.randn(64, 48)
    with pytest.raises(FingerprintError, match=r"inner\.weight holds other values"):
        of(WEIGHT).check(of(other.to(loaded)))


def test_one_changed_value_is_told_in_the_same_precision() -> None:
    other = WEIGHT.clone()
    other[3, 5] *= 1.02
    with pytest.raises(FingerprintError, match="holds other values"):
        of(WEIGHT).check(of(other))


def test_shapes_and_classes_are_told() -> None:
    with pytest.raises(FingerprintError, match=r"has shape \[48, 64\], was \[64, 48\]"):
        of(WEIGHT).check(of(WEIGHT.T.contiguous()))

    class Other(nn.Linear):
        pass

    with pytest.raises(FingerprintError, match="inner is Other, was Linear"):
        of(WEIGHT).check(of(WEIGHT, Other))


def test_a_missing_module_is_told() -> None:
    with pytest.raises(FingerprintError, match=r"inner is None.*inner\.weight is missing"):
        of(WEIGHT).check(fingerprint([], None))


def test_quantised_weights_are_hashed_as_they_are() -> None:
    packed = torch.randint(0, 255, (8, 4), dtype=torch.uint8)
    of(packed).check(of(packed.clone()))
    with pytest.raises(FingerprintError, match="holds other values"):
        of(packed).check(of(packed + 1))


def test_json_and_back() -> None:
    taken = of(WEIGHT)
    back = Fingerprint.from_json(json.loads(json.dumps(taken.to_json())))
    back.check(taken)
    assert back.digest == taken.digest != of(WEIGHT + 1).digest


def test_a_weight_that_is_written_over_has_another_print() -> None:
    inner = nn.Linear(48, 64, bias=False)

    def now() -> Fingerprint:
        return fingerprint([("inner", inner, ["weight"])], None)

    seen = [now(), now()]
    with torch.no_grad():
        inner.weight[3, 5] += 1  # one value, which torch counts
    seen.append(now())
    inner.weight.data.mul_(2)  # all of them, which it does not
    seen.append(now())
    inner.weight.data = torch.randn(64, 48)
    seen.append(now())
    inner.weight = nn.Parameter(torch.randn(64, 48))
    seen.append(now())
    assert len({each.digest for each in seen}) == 5
    assert seen[0].digest == seen[1].digest


def test_a_print_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Tensor] = []
    take = TensorPrint.of

    def counted(tensor: Tensor) -> TensorPrint:
        taken.append(tensor)
        return take(tensor)

    monkeypatch.setattr(TensorPrint, "of", staticmethod(counted))
    inner = nn.Linear(48, 64, bias=False)
    for _ in range(3):
        fingerprint([("inner", inner, ["weight"])], None)
    assert len(taken) == 1
