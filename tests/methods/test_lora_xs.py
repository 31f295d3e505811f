"""LoRA-XS: an R×R matrix between the frozen principal directions of W."""

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from loralab.core.adapter import Adapter
from methods.low_rank_cases import close
from toys import give_effect, quiet

RANK, OUTPUTS, INPUTS = 4, 10, 12


def on_one_layer(**fields: object) -> tuple[nn.Module, Adapter]:
    """(a model of one layer, LoRA-XS on it)."""
    model = nn.ModuleDict({"layer": nn.Linear(INPUTS, OUTPUTS)}).eval()
    return model, ll.attach(model, ll.LoRAXS(**{"rank": RANK, "alpha": 6.0, "targets": ["layer"], **fields}))


def tensors(adapter: Adapter) -> tuple[Tensor, Tensor, Tensor]:
    """(A, M, B)."""
    return tuple(adapter.state_dict()[f"layer.{name}"] for name in ("frozen_A", "lora_M", "frozen_B"))


def test_directions_are_orthonormal_and_the_outputs_carry_the_singular_values() -> None:
    model, adapter = on_one_layer()
    A, M, B = tensors(adapter)
    singular = torch.linalg.svdvals(model["layer"].base.weight.detach())[:RANK]
    close(A @ A.T, torch.eye(RANK), 1e-5)
    close(B.T @ B, singular.square().diag(), 1e-5)
    assert (M.shape, M.any()) == ((RANK, RANK), False)


def test_with_the_unit_matrix_it_adds_the_principal_part_times_the_scale() -> None:
    model, adapter = on_one_layer()
    with torch.no_grad():
        next(adapter.parameters()).copy_(torch.eye(RANK))
    W = model["layer"].base.weight.detach()
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    principal = U[:, :RANK] * S[:RANK] @ Vh[:RANK]
    x = torch.randn(5, INPUTS)
    expected = quiet(model["layer"].base, x) + 6.0 / RANK * x @ principal.T
    close(quiet(model["layer"], x), expected, 1e-5)


def test_only_the_square_matrix_trains() -> None:
    model, adapter = on_one_layer()
    assert [name for name, _ in adapter.named_parameters()] == ["layer.lora_M"]
    A, _, B = (tensor.clone() for tensor in tensors(adapter))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    model["layer"](torch.randn(5, INPUTS)).square().sum().backward()
    optimizer.step()
    after = tensors(adapter)
    assert torch.equal(after[0], A)
    assert torch.equal(after[2], B)
    assert after[1].abs().min() > 0


def test_a_weight_of_lower_rank_has_finite_directions() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(INPUTS, OUTPUTS)})
    with torch.no_grad():
        model["layer"].weight.zero_()
    adapter = ll.attach(model, ll.LoRAXS(rank=RANK, targets=["layer"]))
    give_effect(adapter)
    assert all(tensor.isfinite().all() for tensor in tensors(adapter))
    assert quiet(model["layer"], torch.randn(5, INPUTS)).isfinite().all()


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_weights_that_have_no_directions_are_refused(spoilt: float) -> None:
    model = nn.ModuleDict({"layer": nn.Linear(INPUTS, OUTPUTS)})
    with torch.no_grad():
        model["layer"].weight[0, 0] = spoilt
    with pytest.raises(ll.NumericsError, match="layer holds NaN"):
        ll.attach(model, ll.LoRAXS(rank=RANK, targets=["layer"]))


@pytest.mark.parametrize("wrong, said", [({"rank": 0}, "rank is 0"), ({"alpha": "x"}, "alpha is 'x'")])
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.LoRAXS(**wrong)


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(ll.SpecError, match="rank 11"):
        on_one_layer(rank=11)
