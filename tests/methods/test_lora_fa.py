"""LoRA-FA: A as it was drawn, B alone trains, and inputs of adapted layers need not be kept. Also rsLoRA's scale."""

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from methods.low_rank_cases import close
from small_models import llama, logits
from toys import give_effect, quiet

RANK, OUTPUTS, INPUTS = 3, 10, 48


def test_a_is_drawn_as_loras_and_is_bitwise_constant() -> None:
    models = llama(), llama()
    drawn = []
    for model, frozen in zip(models, (True, False), strict=True):
        torch.manual_seed(3)
        drawn.append(ll.attach(model, ll.LoRA(rank=RANK, freeze_a=frozen)))
    before = {name: tensor.clone() for name, tensor in drawn[0].state_dict().items()}
    assert all(torch.equal(before[name], tensor) for name, tensor in drawn[1].state_dict().items())
    assert all("lora_B" in name for name, _ in drawn[0].named_parameters())
    optimizer = torch.optim.AdamW([p for p in models[0].parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        logits(models[0]).square().sum().backward()
        optimizer.step()
    for name, tensor in drawn[0].state_dict().items():
        assert torch.equal(tensor, before[name]) == ("lora_A" in name), name


def test_the_gradient_of_b_is_loras() -> None:
    layer, x, gradients = nn.Linear(INPUTS, OUTPUTS), torch.randn(7, INPUTS), []
    state = {"layer.lora_A": torch.randn(RANK, INPUTS), "layer.lora_B": torch.randn(OUTPUTS, RANK)}
    for frozen in (True, False):
        model = nn.ModuleDict({"layer": layer})
        adapter = ll.attach(model, ll.LoRA(rank=RANK, targets=["layer"], freeze_a=frozen))
        adapter.load_state_dict(state)
        model["layer"](x).square().sum().backward()
        gradients.append(dict(adapter.named_parameters())["layer.lora_B"].grad)
    close(gradients[0], gradients[1], 1e-6)


@pytest.mark.parametrize("stabilised", [False, True])
def test_the_nearest_step_is_the_full_gradient_projected_onto_the_rows_of_a(stabilised: bool) -> None:
    """With plain gradient descent, s·∂B·A = ∂W·Aᵀ(A·Aᵀ)⁻¹·A: A's rows keep what they see of ∂W, and lose nothing."""
    layer, x = nn.Linear(INPUTS, OUTPUTS, dtype=torch.float64), torch.randn(7, INPUTS, dtype=torch.float64)
    model = nn.ModuleDict({"layer": layer})
    method = ll.LoRA(RANK, targets=["layer"], freeze_a=True, nearest_step=True, rank_stabilized=stabilised)
    adapter = ll.attach(model, method)
    delta = adapter.updates["layer"].delta_of("weight")
    for _ in range(2):  # two batches, whose gradients are added
        model["layer"](x).square().sum().backward()
    A, scale = delta.lora_A.double(), delta.recipe.scale
    W = layer.weight.detach().clone().requires_grad_()
    (2 * nn.functional.linear(x, W, layer.bias).square().sum()).backward()
    basis = torch.linalg.qr(A.T).Q
    close(scale * delta.lora_B.grad.double() @ A, W.grad @ basis @ basis.T, 1e-6)


def test_the_nearest_step_needs_a_frozen_a_and_a_scale() -> None:
    with pytest.raises(ll.SpecError, match="nearest_step needs freeze_a"):
        ll.LoRA(nearest_step=True)
    with pytest.raises(ll.SpecError, match="alpha is 0 with nearest_step"):
        ll.LoRA(freeze_a=True, nearest_step=True, alpha=0)


def kept(frozen: bool) -> set[tuple[int, ...]]:
    """Shapes of what a training pass keeps for the backward pass, weights apart."""
    model = nn.ModuleDict({"layer": nn.Linear(INPUTS, OUTPUTS)}).train()
    adapter = ll.attach(model, ll.LoRA(rank=RANK, targets=["layer"], freeze_a=frozen))
    give_effect(adapter)
    weights = {tuple(tensor.shape) for tensor in (*adapter.state_dict().values(), *model.parameters())}
    shapes: set[tuple[int, ...]] = set()

    def pack(tensor: Tensor) -> Tensor:
        shapes.add(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model["layer"](torch.randn(7, INPUTS, requires_grad=True))
    return shapes - weights


def test_the_backward_pass_needs_no_input_of_the_layer() -> None:
    assert (7, INPUTS) in kept(frozen=False)
    assert kept(frozen=True) == {(7, RANK)}


def test_four_times_the_rank_halves_a_stabilised_scale() -> None:
    """α/√r (rsLoRA) where α/r would be a quarter: the same A and B, padded with zeros, add half as much."""
    layer, x = nn.Linear(INPUTS, OUTPUTS), torch.randn(7, INPUTS)
    A, B = torch.randn(2, INPUTS), torch.randn(OUTPUTS, 2)
    added = {}
    for stabilised in (True, False):
        for rank in (2, 8):
            model = nn.ModuleDict({"layer": layer}).eval()
            spec = ll.LoRA(rank=rank, alpha=4.0, targets=["layer"], rank_stabilized=stabilised)
            padding = rank - 2
            ll.attach(model, spec).load_state_dict(
                {
                    "layer.lora_A": nn.functional.pad(A, (0, 0, 0, padding)),
                    "layer.lora_B": nn.functional.pad(B, (0, padding)),
                }
            )
            added[stabilised, rank] = quiet(model["layer"], x) - quiet(layer, x)
    close(added[True, 8], added[True, 2] / 2, 1e-5)
    close(added[False, 8], added[False, 2] / 4, 1e-5)
    close(added[True, 2], x @ (4 / 2**0.5 * B @ A).T, 1e-5)


def test_a_frozen_a_does_not_go_with_a_start_that_trains_both() -> None:
    with pytest.raises(ll.SpecError, match="freeze_a"):
        ll.LoRA(freeze_a=True, init="pissa")
