"""GaLore: the basis is orthonormal and of the gradient's main directions; at full rank it changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loralab as ll
from loralab.core.projection import Basis, principal_basis
from loralab.methods.projected import GaLore
from loralab.planning.config import PlanConfig
from loralab.planning.plan import plan
from loralab.training.checkpoint import newest_checkpoint
from tiny import write_llama
from training.conftest import Run
from training.projecting import full_gradients, loss_of, net, on, products, step, weights


@pytest.mark.parametrize("shape", [(6, 12), (9, 9)])
def test_the_basis_is_of_the_first_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    G = torch.randn(shape)
    P = principal_basis(G, 4).P_MR
    torch.testing.assert_close(P.T @ P, torch.eye(4), rtol=0, atol=1e-6)
    U = torch.linalg.svd(G).U[:, :4]
    torch.testing.assert_close((P * U).sum(0).abs(), torch.ones(4))
    whole = principal_basis(G, shape[0]).P_MR
    torch.testing.assert_close(whole @ whole.T, torch.eye(shape[0]), rtol=0, atol=1e-6)


def test_the_projected_gradient_is_of_the_full_one_which_is_not_formed() -> None:
    model = net()
    adapter, optimizer = on(model, GaLore(rank=3))
    whole = {each.weight.shape for each in optimizer.projected} | {each.weight.T.shape for each in optimizer.projected}
    first = {}
    for number in (1, 2):
        full = full_gradients(adapter, number)
        loss = loss_of(model, number)
        with products() as so_far:
            loss.backward()
            assert bool(whole & set(map(torch.Size, so_far()))) is (number == 1)
        for each in optimizer.projected:
            basis = optimizer.projection(each)
            assert isinstance(basis, Basis)
            assert torch.equal(first.setdefault(each, basis.P_MR), basis.P_MR)
            torch.testing.assert_close(each.stand_in.grad, basis.P_MR.T @ each.site.canonical(full[each.site.name]))
            assert each.weight.grad is None
        optimizer.step()
        optimizer.zero_grad()


def test_at_full_rank_with_gradient_descent_it_is_gradient_descent() -> None:
    """Adam without memory and with a vast ε is SGD: g / (|g| + ε) → g / ε."""
    model, plain, vast = net(), net(), 1e7
    spec = GaLore(rank=10, projection_scale=1.0, refresh_every=2)
    adapter, optimizer = on(model, spec, lr=0.1 * vast, eps=vast, beta1=0.0, beta2=0.0)
    descent = torch.optim.SGD(plain.parameters(), lr=0.1)
    for number in range(1, 6):
        step(model, optimizer, number)
        step(plain, descent, number)
    torch.testing.assert_close(weights(adapter), dict(plain.named_parameters()), rtol=1e-6, atol=1e-7)


def test_a_step_lies_in_the_basis_and_moments_are_kept() -> None:
    model = net()
    adapter, optimizer = on(model, GaLore(rank=2, refresh_every=2))
    for number in (1, 2, 3):
        before, state = weights(adapter), {each: dict(optimizer.state[each.stand_in]) for each in optimizer.projected}
        moments = {each: state[each].get("exp_avg", torch.zeros(())).clone() for each in optimizer.projected}
        loss_of(model, number).backward()
        for each in optimizer.projected:
            assert number == 1 or torch.equal(optimizer.state[each.stand_in]["exp_avg"], moments[each])
        optimizer.step()
        optimizer.zero_grad()
        for each in optimizer.projected:
            change, P = (
                each.site.canonical(each.weight.detach() - before[each.site.name]),
                optimizer.projection(each).P_MR,
            )
            torch.testing.assert_close(P @ (P.T @ change), change)
            assert change.norm() > 0
            assert torch.equal(optimizer.state[each.stand_in]["step"], torch.full((2,), float(number)))


def test_weight_decay_is_of_the_whole_weight() -> None:
    model = net()
    adapter, optimizer = on(model, GaLore(rank=2, projection_scale=1e-12), weight_decay=0.5, lr=0.1)
    before = weights(adapter)
    step(model, optimizer, 1)
    for each in optimizer.projected:
        torch.testing.assert_close(each.weight.detach(), 0.95 * before[each.site.name])


def test_the_state_has_two_rn_and_the_basis() -> None:
    model = net()
    _, optimizer = on(model, GaLore(rank=3))
    step(model, optimizer, 1)
    for each in optimizer.projected:
        state = optimizer.state[each.stand_in]
        assert state["exp_avg"].numel() + state["exp_avg_sq"].numel() == 2 * 3 * max(each.weight.shape)
        assert state["basis"].shape == (min(each.weight.shape), 3)


def test_it_learns_and_half_and_half_is_the_whole_bit_for_bit(configured: Run) -> None:
    fixed = {"method": "galore", "rank": 4, "lr": 1e-2, "refresh_every": 3, "projection_scale": 1.0, "accumulate": 2}
    whole, halves = (configured(out, steps=8, schedule="constant", **fixed) for out in ("whole", "halves"))
    result = ll.train(whole)
    assert result.last_loss < result.first_loss - 1
    ll.train(replace(halves, steps=4))
    ll.train(replace(halves, resume=True))
    one, other = (newest_checkpoint(Path(each.out) / "checkpoints").tensors for each in (whole, halves))
    assert one.keys() == other.keys()
    assert any(name.endswith("q_proj.weight/basis") for name in one)
    assert all(one[name].equal(other[name]) for name in one)


def test_a_gradient_that_is_not_finite_is_an_error_of_the_run_and_not_of_the_basis() -> None:
    spoilt = torch.ones(3, 5)
    spoilt[1, 2] = torch.nan
    assert not torch.isfinite(principal_basis(spoilt, 2).reduce(spoilt)).all()


def test_a_plan_counts_the_basis(tmp_path: Path) -> None:
    model = str(write_llama(tmp_path))
    grass, galore = (plan(PlanConfig(model=model, method=m, rank=4, dtype="float32")) for m in ("grass", "galore"))
    assert grass.memory.gradients == galore.memory.gradients
    sides = 2 * (32 + 16 + 16 + 32 + 3 * 32)  # q, k, v, o, gate, up and down
    assert galore.memory.optimizer - grass.memory.optimizer == 4 * (4 * sides - 2 * 4 * 14)
