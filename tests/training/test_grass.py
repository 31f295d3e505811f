"""Grass: rows that rest do rest, the projected gradient is the full one's rows, and at full rank it is AdamW."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import loralab as ll
from loralab.core.projection import ROW_CHOICES, ChosenRows, chosen_rows
from loralab.methods.counts import parameter_counts
from loralab.methods.projected import Grass
from loralab.methods.registry import specification
from loralab.methods.settings import MethodSettings
from loralab.models.load import load_model
from loralab.planning.config import PlanConfig
from loralab.planning.plan import plan
from loralab.training.checkpoint import newest_checkpoint
from loralab.training.loop import StepRecord, run_steps
from loralab.training.prepare import prepare
from loralab.training.projected_adamw import ProjectedAdamW
from tiny import write_bert, write_llama
from training.conftest import Run
from training.projecting import WEIGHTS, full_gradients, loss_of, net, on, products, step, weights

# -- the projected gradient ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ROW_CHOICES)
def test_the_projected_gradient_is_the_chosen_rows_of_the_full_one(choice: str) -> None:
    model = net()
    adapter, optimizer = on(model, Grass(rank=3, row_choice=choice))
    assert [each.site.path for each in optimizer.projected] == list(WEIGHTS)
    for number in (1, 2):  # one step that chooses, and one that does not
        full = full_gradients(adapter, number)
        loss_of(model, number).backward()
        for each in optimizer.projected:
            rows = optimizer.projection(each)
            assert isinstance(rows, ChosenRows)
            G = each.site.canonical(full[each.site.name])
            torch.testing.assert_close(each.stand_in.grad, rows.factor_R[:, None] * G[rows.index_R])
            assert each.stand_in.grad.shape == (3, max(G.shape))
        torch.testing.assert_close(dict(adapter.named_parameters())["norm.weight"].grad, full["norm.weight"])
        torch.testing.assert_close(dict(adapter.named_parameters())["low.bias"].grad, full["low.bias"])
        optimizer.step()
        optimizer.zero_grad()


def test_the_longest_rows_are_chosen() -> None:
    model = net()
    adapter, optimizer = on(model, Grass(rank=3))
    full = full_gradients(adapter, 1)
    loss_of(model, 1).backward()
    for each in optimizer.projected:
        lengths = each.site.canonical(full[each.site.name]).norm(dim=1)
        assert set(optimizer.projection(each).index_R.tolist()) == set(lengths.argsort()[-3:].tolist())


def test_between_refreshes_no_product_has_the_size_of_a_weight() -> None:
    model = net()
    _, optimizer = on(model, Grass(rank=3))
    whole = {each.weight.shape for each in optimizer.projected} | {each.weight.T.shape for each in optimizer.projected}
    for number, formed in ((1, True), (2, False)):
        loss = loss_of(model, number)
        with products() as so_far:
            loss.backward()
            assert bool(whole & set(map(torch.Size, so_far()))) is formed
        assert all(each.weight.grad is None for each in optimizer.projected)
        optimizer.step()
        optimizer.zero_grad()


def test_of_projected_inputs_only_the_chosen_columns_are_kept() -> None:
    layer = nn.Linear(6, 10, bias=False).double()
    model = nn.Sequential(nn.Identity(), layer)
    _, optimizer = on(model, Grass(rank=2))
    model(torch.ones(5, 6, dtype=torch.float64)).sum().backward()
    optimizer.step()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tuple(tensor.shape)) or tensor, id):
        model(torch.ones(5, 6, dtype=torch.float64))
    assert sorted(kept) == [(5, 2), (10, 6)]


def test_a_layer_that_is_more_than_a_product_has_the_same_gradient() -> None:
    """With a hook on it the layer runs its own forward; its full gradient is projected as it comes."""
    gradients = []
    for hooked in (False, True):
        model = net()
        if hooked:
            model.square.register_forward_hook(lambda *_: None)
        _, optimizer = on(model, Grass(rank=3))
        step(model, optimizer, 1)
        loss_of(model, 2).backward()
        gradients.append([each.stand_in.grad for each in optimizer.projected])
    torch.testing.assert_close(*gradients)


# -- the step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ROW_CHOICES)
def test_rows_that_were_not_chosen_do_not_change_by_a_bit(choice: str) -> None:
    model = net()
    adapter, optimizer = on(model, Grass(rank=3, row_choice=choice, refresh_every=3), weight_decay=0.1)
    chosen: dict[str, list[set[int]]] = {}
    for number in range(1, 8):
        before = weights(adapter)
        step(model, optimizer, number)
        for each in optimizer.projected:
            rows = set(optimizer.projection(each).index_R.tolist())
            moved = each.site.canonical(each.weight != before[each.site.name]).any(1).nonzero().flatten()
            assert set(moved.tolist()) == rows
            chosen.setdefault(each.site.path, []).append(rows)
    for history in chosen.values():
        assert [one == other for one, other in pairwise(history)].count(False) <= 2
        assert history[0] == history[2]
        assert history[3] == history[5]
    assert any(history[0] != history[3] for history in chosen.values())


def test_the_share_of_rows_that_were_moved_is_that_of_all_that_were_chosen() -> None:
    model = net()
    _, optimizer = on(model, Grass(rank=2, row_choice="uniform", refresh_every=2))
    assert set(optimizer.moved().values()) == {0.0}
    chosen: dict[str, set[int]] = {path: set() for path in WEIGHTS}
    for number in range(1, 7):
        step(model, optimizer, number)
        for each in optimizer.projected:
            chosen[each.site.path] |= set(optimizer.projection(each).index_R.tolist())
    expected = {each.site.path: len(chosen[each.site.path]) / each.site.shape[0] for each in optimizer.projected}
    assert optimizer.moved() == pytest.approx(expected)
    least = min(expected, key=expected.__getitem__)
    (note,) = optimizer.closing_notes()
    assert f"{expected[least]:.0%} in {least}, the fewest" in note


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_with_all_rows_it_is_adamw(weight_decay: float) -> None:
    model, plain = net(), net()
    adapter, optimizer = on(model, Grass(rank=10, projection_scale=1.0), weight_decay=weight_decay)
    decayed = [p for name, p in plain.named_parameters() if not name.endswith("bias")]
    biases = [p for name, p in plain.named_parameters() if name.endswith("bias")]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.05, eps=1e-12)
    for number in range(1, 6):
        step(model, optimizer, number)
        step(plain, adamw, number)
    torch.testing.assert_close(weights(adapter), dict(plain.named_parameters()), rtol=1e-9, atol=1e-11)


class FrozenB(nn.Module):
    """h = x·(W + α·P·A)ᵀ + bias (or ·(W + (α·P·A)ᵀ)ᵀ), with A alone trained."""

    def __init__(self, W: torch.Tensor, bias: torch.Tensor | None, P: torch.Tensor, alpha: float, flip: bool) -> None:
        super().__init__()
        self.W, self.bias, self.P, self.alpha, self.flip = W, bias, P, alpha, flip
        self.A = nn.Parameter(torch.zeros(P.shape[1], W.shape[0] if flip else W.shape[1], dtype=W.dtype))

    def merged(self) -> torch.Tensor:
        delta = self.alpha * self.P @ self.A
        return self.W + (delta.T if self.flip else delta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.merged(), self.bias)


@pytest.mark.parametrize("choice", ["top", "norm-replace"])
@pytest.mark.parametrize("layer", ["low", "wide"])
def test_a_period_is_a_lora_with_frozen_b_merged_and_started_anew(layer: str, choice: str) -> None:
    """Two periods of three steps, with the other tensors at rest."""
    model = net()
    _, optimizer = on(model, Grass(rank=3, row_choice=choice, refresh_every=3, projection_scale=0.5))
    each = next(each for each in optimizer.projected if each.site.path == layer)
    for group in optimizer.param_groups[:-1]:
        group["lr"] = 0.0
    reference, A = net(), None
    for number in range(1, 7):
        kept = {other: other.weight.detach().clone() for other in optimizer.projected if other is not each}
        step(model, optimizer, number)
        with torch.no_grad():
            for other, before in kept.items():
                other.weight.copy_(before)
        if number in (1, 4):  # the rows that were chosen in this step
            rows = optimizer.projection(each)
            m = each.site.shape[0]
            P = torch.zeros(m, 3, dtype=torch.float64)
            P[rows.index_R, torch.arange(3)] = rows.factor_R
            base = getattr(reference, layer)
            W = base.merged().detach() if isinstance(base, FrozenB) else base.weight.detach()
            setattr(reference, layer, FrozenB(W, base.bias, P, 0.5, flip=not each.site.of_outputs))
            A = torch.optim.AdamW([getattr(reference, layer).A], lr=0.05, eps=1e-12, weight_decay=0.0)
        step(reference, A, number)
        torch.testing.assert_close(each.weight.detach(), getattr(reference, layer).merged().detach())


def test_the_state_has_two_rn() -> None:
    model = net()
    _, optimizer = on(model, Grass(rank=3))
    step(model, optimizer, 1)
    for each in optimizer.projected:
        state = optimizer.state[each.stand_in]
        moments = state.pop("exp_avg").numel() + state.pop("exp_avg_sq").numel()
        assert moments == 2 * 3 * max(each.weight.shape)
        assert sum(tensor.numel() for tensor in state.values()) == 2 * 3 + 3 + 1  # σ, ρ; steps of each row; of all


def moments_around_a_refresh(
    rule: str,
) -> list[tuple[ChosenRows, dict[str, torch.Tensor], ChosenRows, dict[str, torch.Tensor]]]:
    """(rows, state) before and after step 3 has chosen anew, before its step, of every weight."""
    model = net()
    _, optimizer = on(model, Grass(rank=3, row_choice="norm-replace", refresh_every=2, state_on_refresh=rule))
    for number in (1, 2):
        step(model, optimizer, number)
    before = [
        (optimizer.projection(each), {k: v.clone() for k, v in optimizer.state[each.stand_in].items()})
        for each in optimizer.projected
    ]
    loss_of(model, 3).backward()
    after = [(optimizer.projection(each), optimizer.state[each.stand_in]) for each in optimizer.projected]
    return [(*one, *other) for one, other in zip(before, after, strict=True)]


def test_a_refresh_resets_keeps_or_carries_the_moments() -> None:
    for _, _, _, state in moments_around_a_refresh("reset"):
        assert not state["exp_avg"].any()
        assert not state["step"].any()
    for _, before, _, state in moments_around_a_refresh("keep"):
        assert torch.equal(state["exp_avg_sq"], before["exp_avg_sq"])
        assert torch.equal(state["step"], torch.full((3,), 2.0))
    stayed = 0
    for old, before, new, state in moments_around_a_refresh("carry"):
        for place, row in enumerate(new.index_R.tolist()):
            found = (old.index_R == row).nonzero().flatten()
            assert state["step"][place] == (2.0 if len(found) else 0.0)
            if len(found):
                ratio = new.factor_R[place] / old.factor_R[found[0]]
                torch.testing.assert_close(state["exp_avg"][place], before["exp_avg"][found[0]] * ratio)
                torch.testing.assert_close(state["exp_avg_sq"][place], before["exp_avg_sq"][found[0]] * ratio**2)
                stayed += 1
            else:
                assert not state["exp_avg"][place].any()
    assert stayed > 2


def test_a_step_rises_again_after_a_refresh_if_asked() -> None:
    _, optimizer = on(net(), Grass(rank=3, refresh_every=10, refresh_warmup=3, projection_scale=1.0))
    assert [optimizer._scale(taken) for taken in (0, 1, 10, 11, 12, 13, 20)] == [1, 1, 0.25, 0.5, 0.75, 1, 0.25]


# -- the rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["norm-replace", "norm2", "uniform"])
def test_the_expectation_of_the_projection_is_the_identity(choice: str) -> None:
    """Monte Carlo: the mean of P·Pᵀ over 5,000 draws. For the rules with ρ = 1 it is not, and not claimed."""
    G = torch.tensor([1.0, 2.0, 1.5, 3.0, 1.5])[:, None] * torch.ones(5, 2)
    generator, mean, draws = torch.Generator().manual_seed(3), torch.zeros(5), 5_000
    for _ in range(draws):
        rows = chosen_rows(G, 2, choice, generator)
        mean.index_add_(0, rows.index_R, rows.factor_R.square() / draws)
    torch.testing.assert_close(mean, torch.ones(5), rtol=0, atol=0.2)


def test_no_factor_is_above_the_largest_allowed() -> None:
    G, generator = torch.tensor([[1.0], [10.0]]), torch.Generator().manual_seed(0)
    free = torch.cat([chosen_rows(G, 2, "norm2", generator).factor_R for _ in range(400)])
    capped = torch.cat([chosen_rows(G, 2, "norm2", generator, 3.0).factor_R for _ in range(400)])
    assert free.max() > 7
    assert capped.max() == 3
    assert capped.min() == free.min()


@pytest.mark.parametrize("choice, power", [("norm", 1), ("norm-replace", 1), ("norm2", 2), ("uniform", 0)])
def test_lengths_decide_how_often_a_row_is_drawn(choice: str, power: int) -> None:
    G = torch.tensor([[0.5], [1.0], [2.0], [5.0]])
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(4)
    for _ in range(2000):
        counts[chosen_rows(G, 1, choice, generator).index_R] += 1 / 2000
    q = G.flatten() ** power
    torch.testing.assert_close(counts, q / q.sum(), rtol=0, atol=0.05)


def test_rows_drawn_without_repetition_are_distinct() -> None:
    generator = torch.Generator().manual_seed(0)
    for choice in ("norm", "uniform"):
        rows = chosen_rows(torch.tensor([[1.0], [1.0], [100.0], [0.0]]), 3, choice, generator)
        assert len(set(rows.index_R.tolist())) == 3


@pytest.mark.parametrize("choice", ROW_CHOICES)
def test_gradients_of_zero_and_of_nan_are_no_trap(choice: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = chosen_rows(torch.zeros(5, 2), 3, choice, generator)
    assert torch.isfinite(rows.factor_R).all()
    spoilt = torch.ones(5, 2)
    spoilt[4, 0] = torch.nan
    assert 4 in chosen_rows(spoilt, 3, choice, generator).index_R


# -- whole runs ---------------------------------------------------------------------------------------------------

SMALL = {"method": "grass", "rank": 2, "refresh_every": 4, "lr": 1e-2}


def test_a_language_model_learns(configured: Run) -> None:
    result = ll.train(configured(**SMALL | {"steps": 20, "projection_scale": 1.0}))
    notes = json.loads((Path(result.adapter) / "run.json").read_text(encoding="utf-8"))["notes"]
    assert any("were moved" in note for note in notes)
    assert result.metrics["loss"] < result.first_loss - 1
    assert result.trainable_params == result.total_params


@pytest.mark.parametrize(
    "extras",
    [
        {"row_choice": "norm", "accumulate": 2, "clip": 0.5, "weight_decay": 0.1, "state_on_refresh": "carry"},
        {"gradient_checkpointing": True, "row_choice": "norm-replace", "dtype": "bfloat16"},
    ],
)
def test_half_and_half_is_the_whole_bit_for_bit(configured: Run, extras: dict[str, object]) -> None:
    """Interrupted within a period, and with a refresh after it; the checkpoints at the end are one."""
    fixed = SMALL | {"schedule": "constant", "eval_limit": 0} | extras
    whole, halves = configured("whole", steps=6, **fixed), configured("halves", steps=3, **fixed)
    ll.train(whole)
    ll.train(halves)
    ll.train(replace(halves, steps=6, resume=True))
    one, other = (newest_checkpoint(Path(each.out) / "checkpoints").tensors for each in (whole, halves))
    assert one.keys() == other.keys()
    assert any(name.endswith("q_proj.weight/index") for name in one)
    assert all(one[name].equal(other[name]) for name in one)
    one, other = (load_file(Path(each.out) / "adapter_model.safetensors") for each in (whole, halves))
    assert all(one[name].equal(other[name]) for name in one)


def test_the_adapter_is_that_of_full_fine_tuning(configured: Run) -> None:
    """Every weight whole, plain updates, merged like any; and rows that were never chosen are the base's."""
    config = configured(**SMALL | {"steps": 3, "eval_limit": 0})
    ll.train(config)
    model = load_model(config.model, kind="generation", dtype="float32").model
    base = model.get_submodule("model.layers.0.mlp.down_proj").weight.clone()
    adapter = ll.load(model, config.out)
    assert parameter_counts(adapter, model).method == sum(
        p.numel() for p in load_model(config.model).model.parameters()
    )
    moved = (dict(adapter.named_parameters())["model.layers.0.mlp.down_proj.weight"] != base).any(1)
    assert moved.sum() == 2
    assert ll.merge(model).tensors > 14


def test_checkpointed_blocks_give_the_same_gradients(configured: Run) -> None:
    found = []
    for checkpointing in (False, True):
        trainee = prepare(configured(**SMALL, gradient_checkpointing=checkpointing), "float32").trainee
        trainee.model.train()
        for number in (1, 2):
            trainee.objective.backward(trainee.data.step(number))
            found.append([parameter.grad.clone() for parameter in trainee.parameters()])
            trainee.optimizer.step()
            trainee.optimizer.zero_grad()
    torch.testing.assert_close(found[:2], found[2:])


def test_several_backward_passes_in_a_step_add_up() -> None:
    """Also where each of them is projected as it comes: the rows are those of the first."""
    model = net()
    adapter, optimizer = on(model, Grass(rank=3))
    first, second = full_gradients(adapter, 1), full_gradients(adapter, 2)
    loss_of(model, 1).backward()
    loss_of(model, 2).backward()
    for each in optimizer.projected:
        together = each.site.canonical(first[each.site.name] + second[each.site.name])
        torch.testing.assert_close(each.stand_in.grad, together[optimizer.projection(each).index_R])


def test_accumulated_batches_are_one_big_batch(configured: Run) -> None:
    """Also in a step that chooses anew: by the gradient of all its batches."""
    found = []
    for batch_size, accumulate in ((24, 1), (8, 3)):
        changes = {"batch_size": batch_size, "accumulate": accumulate, "limit": 24}
        trainee = prepare(configured(**SMALL | changes), "float32").trainee
        for number in (1, 2):
            trainee.objective.backward(trainee.data.step(number))
            trainee.optimizer.gather()
            found.append([parameter.grad.clone() for parameter in trainee.parameters()])
            trainee.optimizer.step()
            trainee.optimizer.zero_grad()
    torch.testing.assert_close(found[0], found[2], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[1], found[3], atol=1e-5, rtol=1e-3)


class Norms(list[float]):
    """What a run records of its gradients."""

    def after_step(self, record: StepRecord) -> bool:
        self.append(record.gradient_norm)
        return True


@pytest.mark.parametrize("accumulate", [1, 2])
def test_clipping_sees_the_projected_gradients(configured: Run, accumulate: int) -> None:
    config = configured(**SMALL | {"accumulate": accumulate, "clip": 0.01})
    trainee, clipped, norms = prepare(config, "float32").trainee, prepare(config, "float32").trainee, Norms()
    assert isinstance(trainee.optimizer, ProjectedAdamW)
    assert isinstance(clipped.optimizer, ProjectedAdamW)
    trainee.objective.backward(trainee.data.step(1))
    trainee.optimizer.gather()
    norm = torch.stack([parameter.grad.norm() for parameter in trainee.parameters()]).norm()
    run_steps(clipped, config, 1, 1, norms)
    assert norms == [pytest.approx(float(norm), rel=1e-4)]
    for one, other in zip(trainee.optimizer.projected, clipped.optimizer.projected, strict=True):
        mean = clipped.optimizer.state[other.stand_in]["exp_avg"]
        torch.testing.assert_close(mean, 0.1 * 0.01 / norm * one.stand_in.grad, rtol=1e-3, atol=1e-9)


def test_embeddings_norms_biases_and_heads_have_plain_adamw(classifying: Run) -> None:
    trainee = prepare(classifying(method="grass"), "float32").trainee
    assert isinstance(trainee.optimizer, ProjectedAdamW)
    paths = {each.site.path for each in trainee.optimizer.projected}
    assert all(".layer." in path or path == "bert.pooler.dense" for path in paths)
    assert len(paths) == 2 * 6 + 1


def test_an_output_head_has_plain_adamw(configured: Run) -> None:
    for tied in (False, True):
        model = str(write_llama(Path(configured().model).with_name(f"tied-{tied}"), tie_word_embeddings=tied))
        optimizer = prepare(configured(**SMALL | {"model": model}), "float32").trainee.optimizer
        assert isinstance(optimizer, ProjectedAdamW)
        assert all(".layers." in each.site.path for each in optimizer.projected)
        assert len(optimizer.projected) == 2 * 7


# -- what it needs, and what cannot be ----------------------------------------------------------------------------


def test_a_plan_counts_narrow_gradients(tmp_path: Path) -> None:
    model = str(write_bert(tmp_path))
    sizes: dict[str, dict[str, int]] = {"full": {}, "grass": {"rank": 4}}
    full, grass = (plan(PlanConfig(model=model, method=m, dtype="float32", **sizes[m])) for m in sizes)
    assert grass.trainable_params == full.trainable_params
    whole, narrow = 2 * (4 * 32 * 32 + 2 * 32 * 48) + 32 * 32, 2 * 4 * (4 * 32 + 2 * 48) + 4 * 32
    assert full.memory.gradients - grass.memory.gradients == 4 * (whole - narrow)
    assert full.memory.optimizer - grass.memory.optimizer == 4 * (2 * (whole - narrow) - 2 * 4 * 13)
    assert grass.memory.weights == full.memory.weights


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"method": "grass+lora"}, "by themselves"),
        ({"method": "grass", "rank": 0}, "rank is 0"),
        ({"method": "grass", "refresh_every": 0}, "refresh_every is 0"),
        ({"method": "grass", "projection_scale": -1.0}, "projection_scale is -1"),
        ({"method": "grass", "row_choice": "best"}, "row_choice is 'best'"),
        ({"method": "grass", "largest_factor": 0.0}, "largest_factor is 0.0 and must be above 0"),
        ({"method": "galore", "state_on_refresh": "carry"}, "one of reset, keep"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ll.SpecError, match=match):
        specification(MethodSettings(**settings))


def test_a_rank_that_projects_nothing_and_a_quantised_base_are_refused(configured: Run) -> None:
    with pytest.raises(ll.SpecError, match="smaller side of the largest has 10"):
        ll.attach(net(), Grass(rank=11))
    with pytest.raises(ll.SpecError, match="frozen in 4 bits"):
        configured(method="grass", quantize="nf4").validate()


def test_weights_without_that_many_rows_train_whole_and_it_is_said() -> None:
    adapter = ll.attach(net(), Grass(rank=8))
    assert any("4 of them have no more than 8 rows" in note for note in adapter.notes)
