"""AdaMix: one expert of each side at random in training, their mean otherwise."""

import math

import pytest
import torch
from torch import Tensor, nn

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.models.checkpointing import compute_blocks_again
from loralab.tasks.encoding.batches import Batch
from loralab.training.objective import consistent_loss_sum, divergence
from methods.low_rank_cases import close, kind_of
from small_models import llama
from toys import give_effect, quiet

RANK, EXPERTS, OUTPUTS, INPUTS = 2, 3, 6, 8


def on_one_layer(**fields: object) -> tuple[nn.Module, Adapter]:
    """(a model of one layer in training, AdaMix on it)."""
    model = nn.ModuleDict({"layer": nn.Linear(INPUTS, OUTPUTS)}).train()
    spec = {"rank": RANK, "experts": EXPERTS, "share": "none", "targets": ["layer"], **fields}
    return model, ll.attach(model, ll.AdaMix(**spec))


def drawn(model: nn.Module, x: Tensor, passes: int = 150) -> list[Tensor]:
    """The different outputs among many training passes."""
    found: dict[tuple[float, ...], Tensor] = {}
    for _ in range(passes):
        output = quiet(model["layer"], x)
        found[tuple(output.flatten().tolist())] = output
    return list(found.values())


# -- routing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share, pairs", [("none", EXPERTS**2), ("B", EXPERTS), ("A", EXPERTS)])
def test_the_mean_over_all_draws_is_the_evaluated_output(share: str, pairs: int) -> None:
    """i and j are drawn independently: all pairs come up, and E[B_j·A_i] = B̄·Ā."""
    model, adapter = on_one_layer(share=share)
    give_effect(adapter, std=0.5)
    x = torch.randn(5, INPUTS)
    outputs = drawn(model, x)
    assert len(outputs) == pairs
    close(torch.stack(outputs).mean(0), quiet(model.eval()["layer"], x), 1e-5)


def test_draws_are_even() -> None:
    model, adapter = on_one_layer(share="A")
    give_effect(adapter)
    x, count = torch.randn(1, INPUTS), 600
    seen: dict[float, int] = {}
    for _ in range(count):
        key = float(quiet(model["layer"], x)[0, 0])
        seen[key] = seen.get(key, 0) + 1
    assert all(abs(times - count / EXPERTS) < 4 * math.sqrt(count / EXPERTS) for times in seen.values())


def test_one_draw_is_for_the_whole_batch() -> None:
    model, adapter = on_one_layer()
    give_effect(adapter, std=0.5)
    x = torch.randn(1, INPUTS).expand(16, INPUTS)
    for _ in range(5):
        output = quiet(model["layer"], x)
        close(output, output[:1].expand_as(output), 1e-6)


def test_layers_draw_apart() -> None:
    model = nn.ModuleDict({name: nn.Linear(INPUTS, OUTPUTS) for name in ("one", "two")}).train()
    adapter = ll.attach(model, ll.AdaMix(rank=RANK, experts=2, share="A", targets=["one", "two"]))
    give_effect(adapter)
    x, pairs = torch.randn(1, INPUTS), set()
    for _ in range(40):
        pairs.add(tuple(float(quiet(model[name], x)[0, 0]) for name in ("one", "two")))
    assert len(pairs) == 4


def test_the_seed_decides_the_draws() -> None:
    model, adapter = on_one_layer()
    give_effect(adapter)
    x, runs = torch.randn(2, INPUTS), []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        runs.append(torch.stack([quiet(model["layer"], x) for _ in range(8)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_checkpointed_pass_repeats_its_draws() -> None:
    """The replay in the backward pass must meet the same experts, or gradients are of another function."""
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        model = llama()
        adapter = ll.attach(model, ll.AdaMix(rank=RANK, experts=EXPERTS, share="none"))
        give_effect(adapter)
        if checkpointed:
            compute_blocks_again(model)
        torch.manual_seed(6)
        ids = torch.arange(3, 23).view(2, 10)
        model.train()(input_ids=ids).logits.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in adapter.named_parameters()})
    plain, replayed = gradients
    assert any(gradient is None for gradient in plain.values())
    for name, gradient in plain.items():
        assert (gradient is None) == (replayed[name] is None), name
        if gradient is not None:
            close(replayed[name], gradient, 1e-5)


# -- averages ----------------------------------------------------------------------------------------------------------


def test_equal_experts_make_training_evaluation() -> None:
    model, adapter = on_one_layer()
    with torch.no_grad():
        values = {"lora_A": torch.randn(RANK, INPUTS), "lora_B": torch.randn(OUTPUTS, RANK)}
        for name, parameter in adapter.named_parameters():
            parameter.copy_(values[kind_of(name)])
    x = torch.randn(5, INPUTS)
    (live,) = drawn(model, x, passes=20)
    close(live, quiet(model.eval()["layer"], x), 1e-5)


def test_averages_are_never_stale() -> None:
    """The released code keeps the first average for good (spec §3, pitfall 1)."""
    model, adapter = on_one_layer()
    x = torch.randn(5, INPUTS)
    outputs = []
    for _ in range(3):
        model.eval()
        outputs.append(quiet(model["layer"], x))
        model.train()
        give_effect(adapter)
    A, B = (
        torch.stack([tensor for name, tensor in adapter.state_dict().items() if kind_of(name) == f"lora_{side}"])
        for side in "AB"
    )
    D = 16 / RANK * B.mean(0) @ A.mean(0)
    model.eval()
    close(quiet(model["layer"], x), quiet(model["layer"].base, x) + x @ D.T, 1e-5)
    assert len({float(output.sum()) for output in outputs}) == 3


def test_merging_averages_whatever_the_mode() -> None:
    model, adapter = on_one_layer()
    give_effect(adapter, std=0.5)
    x = torch.randn(5, INPUTS)
    evaluated = quiet(model.eval()["layer"], x)
    model.train()
    ll.merge(model)
    close(quiet(model["layer"], x), evaluated, 1e-5)


def test_experts_start_apart_and_as_lora_does() -> None:
    _, adapter = on_one_layer()
    state = adapter.state_dict()
    A = [tensor for name, tensor in state.items() if kind_of(name) == "lora_A"]
    assert len(A) == EXPERTS
    assert not torch.equal(A[0], A[1])
    assert all(tensor.abs().max() <= 1 / math.sqrt(INPUTS) for tensor in A)
    assert not any(tensor.any() for name, tensor in state.items() if kind_of(name) == "lora_B")


def test_one_expert_is_lora() -> None:
    model, adapter = on_one_layer(experts=1, alpha=5.0)
    give_effect(adapter)
    lora = nn.ModuleDict({"layer": model["layer"].base})
    plain = ll.attach(lora, ll.LoRA(rank=RANK, alpha=5.0, targets=["layer"]))
    plain.load_state_dict({name.removesuffix("_0"): tensor for name, tensor in adapter.state_dict().items()})
    x, gradients = torch.randn(5, INPUTS), []
    for network, parameters in ((model, adapter.parameters()), (lora, plain.parameters())):
        gradients.append(torch.autograd.grad(network["layer"](x).square().sum(), list(parameters)))
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs, 1e-6)


# -- the consistency loss ----------------------------------------------------------------------------------------------


def test_disagreement_is_half_of_both_divergences_and_zero_where_both_agree() -> None:
    z1, z2 = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    p1, p2 = z1.softmax(-1).detach(), z2.softmax(-1).detach()
    expected = 0.5 * ((p2 * (p2 / p1).log()).sum() + (p1 * (p1 / p2).log()).sum())
    loss = divergence(z1, z2)
    close(loss.detach(), expected, 1e-5)
    assert float(expected) > 1.0
    assert float(divergence(z1, z1 + 3.0).detach()) == pytest.approx(0.0, abs=1e-5)  # logits up to a constant
    loss.backward()
    close(z1.grad, 0.5 * (p1 - p2), 1e-4)  # the target of each pass is a constant
    close(z2.grad, 0.5 * (p2 - p1), 1e-4)


def losses(spec: object) -> tuple[Tensor, Tensor, Tensor]:
    """(the task's loss, the disagreement, the task's loss of the plain forward pass) of a model under this method."""
    torch.manual_seed(1)
    model = llama().train()
    adapter = ll.attach(model, spec)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if kind_of(name) == "lora_B":
                parameter.fill_(0.1)
    ids = torch.arange(3, 23).view(2, 10)
    batch = Batch({"input_ids": ids}, ids, 20, 18)
    task, apart = consistent_loss_sum(model, batch, "generation", 0.0, 1.0)
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    return task, apart, nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")


def test_with_one_expert_and_no_dropout_the_loss_is_loras() -> None:
    task, apart, plain = losses(ll.AdaMix(rank=RANK, experts=1))
    assert float(apart.detach()) == 0.0
    close(task, plain, 1e-6)
    lora, _, _ = losses(ll.LoRA(rank=RANK))
    close(task, lora, 1e-6)


def test_two_passes_under_several_experts_disagree() -> None:
    _, apart, _ = losses(ll.AdaMix(rank=RANK, experts=8, share="B"))
    assert float(apart.detach()) > 0


@pytest.mark.parametrize("share, sleepers", [("B", {"lora_A"}), ("A", {"lora_B"}), ("none", {"lora_A", "lora_B"})])
def test_experts_that_may_be_left_out_are_named(share: str, sleepers: set[str]) -> None:
    _, adapter = on_one_layer(share=share)
    assert {kind_of(name) for name in adapter.sleepers} == sleepers
    assert not on_one_layer(share=share, experts=1)[1].sleepers


@pytest.mark.parametrize(
    "wrong, said",
    [({"experts": 0}, "experts is 0"), ({"share": "C"}, "share is 'C'"), ({"rank": True}, "rank is True")],
)
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.AdaMix(**wrong)
