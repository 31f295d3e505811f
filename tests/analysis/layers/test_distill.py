"""Distillation on a small Llama: it lowers its loss, touches nothing but the maps, and repeats itself bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.analysis.layers.distill import (
    Distilling,
    TeacherAndStudent,
    distance,
    distances,
    distill,
    divergence,
    pair,
    parameter_units,
    relative_error,
)
from loralab.analysis.layers.texts import TokenBatch
from loralab.errors import NumericsError, SpecError
from loralab.models.load import load_model
from loralab.models.surgery.blocks import AffineBlock, blocks_of, replace_blocks
from tiny import write_llama

WIDTH = 32


def teacher_of(folder: Path) -> PreTrainedModel:
    return load_model(str(write_llama(folder, num_hidden_layers=4)), dtype="float32").model


def batches(count: int = 3) -> list[TokenBatch]:
    """Two rows each, the second shorter."""
    generator = torch.Generator().manual_seed(0)
    mask_BT = torch.arange(12)[None, :] < torch.tensor([[12], [7]])
    return [TokenBatch(torch.randint(2, 258, (2, 12), generator=generator), mask_BT) for _ in range(count)]


def zero_map() -> AffineBlock:
    """The map that drops its blocks."""
    return AffineBlock(torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH))


def two_maps(teacher: PreTrainedModel) -> TeacherAndStudent:
    return pair(teacher, {(1, 2): zero_map(), (2, 4): zero_map()})


def values(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_it_lowers_its_loss_and_changes_only_the_maps(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path)
    before, wanted = values(teacher), [each.requires_grad for each in teacher.parameters()]
    models = two_maps(teacher)
    start = distance(models, batches())
    losses = distill(models, batches(), Distilling(steps=30, lr=2e-2))
    end = distance(models, batches())
    assert len(losses) == 30
    assert end.divergence < 0.7 * start.divergence
    assert end.states < 0.7 * start.states
    after = teacher.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [each.requires_grad for each in teacher.parameters()] == wanted
    assert not any(each.requires_grad or each.grad is not None for each in models.trained)
    assert not teacher.training
    student = dict(models.student.named_parameters())
    assert student["lm_head.weight"] is teacher.get_parameter("lm_head.weight")


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        models = two_maps(teacher_of(tmp_path))
        runs.append((distill(models, batches(), Distilling(steps=4)), [each.clone() for each in models.trained]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(one, other) for one, other in zip(runs[0][1], runs[1][1], strict=True))


def test_an_exactly_linear_block_stays(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path)
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            blocks_of(teacher)[2].get_parameter(f"{name}.weight").zero_()
    models = pair(teacher, {(2, 3): zero_map()})
    assert distance(models, batches()) == pytest.approx(distance(models, batches()[:1]))
    losses = distill(models, batches(), Distilling(steps=3))
    assert losses == [0.0] * 3
    assert all(bool((each == 0).all()) for each in models.trained)


def test_the_map_of_an_affine_block_stays(tmp_path: Path) -> None:
    teacher, generator = teacher_of(tmp_path), torch.Generator().manual_seed(0)
    own = AffineBlock(*(0.1 * torch.randn(*size, generator=generator) for size in ((WIDTH, WIDTH), (WIDTH,))))
    replace_blocks(teacher, {(2, 3): own})
    models = pair(teacher, {(2, 3): AffineBlock(own.weight.data.clone(), own.bias.data.clone())})
    losses = distill(models, batches(), Distilling(steps=3))
    assert max(losses) < 1e-6
    for mine, theirs in zip(models.trained, (own.weight, own.bias), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-4)


def test_streams_are_compared_where_they_should_be_the_same(tmp_path: Path) -> None:
    models = two_maps(teacher_of(tmp_path))
    assert models.compared == ((2, 2), (3, 4))
    assert len(blocks_of(models.teacher)) == 4
    assert pair(models.teacher, {(0, 2): zero_map()}).compared == ((1, 2), (2, 3), (3, 4))


def test_a_weight_is_trained_in_units_of_what_it_connects(tmp_path: Path) -> None:
    models, batch = pair(teacher_of(tmp_path), {(0, 2): zero_map()}), batches(1)[0]
    with torch.no_grad():
        states = models.teacher(
            input_ids=batch.ids_BT, attention_mask=batch.mask_BT.long(), output_hidden_states=True
        ).hidden_states
    entered_ND, left_ND = (states[level][batch.mask_BT] for level in (0, 2))
    weight_DD, bias_D = parameter_units(models, batch)
    assert torch.allclose(bias_D, (left_ND - entered_ND).std(0, correction=0))
    assert torch.allclose(weight_DD[3, 5], bias_D[3] / entered_ND[:, 5].std(correction=0))


def test_padding_does_not_count(tmp_path: Path) -> None:
    models, batch = two_maps(teacher_of(tmp_path)), batches(1)[0]
    other = torch.where(batch.mask_BT, batch.ids_BT, 77)
    both = (distances(models, TokenBatch(ids, batch.mask_BT)) for ids in (batch.ids_BT, other))
    for mine, theirs in zip(*both, strict=True):
        assert float(mine.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)


def test_the_loss_is_what_its_equation_says() -> None:
    teacher_NV, student_NV = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.zeros(2, 2)
    p = teacher_NV.softmax(1)
    assert float(divergence(teacher_NV, student_NV)) == pytest.approx(float((p * (p / 0.5).log()).sum() / 2))
    assert float(divergence(teacher_NV, teacher_NV)) == 0
    large_ND = torch.tensor([[1000.0, 0.0, 5.0], [-1000.0, 2.0, 5.0]])
    assert float(relative_error(large_ND.mean(0).expand(2, 3), large_ND)) == 1
    assert float(relative_error(large_ND[:1], large_ND[:1])) == 0
    assert float(relative_error(large_ND + torch.tensor([0.0, 2.0, 0.0]), large_ND)) == 2


def test_what_is_refused(tmp_path: Path) -> None:
    for wrong in ({"steps": -1}, {"lr": 0.0}, {"batch": 0}, {"states": -1.0}, {"lr": float("nan")}):
        with pytest.raises(SpecError, match="a batch has 1 piece at least"):
            Distilling(**wrong)  # type: ignore[arg-type]
    with pytest.raises(NumericsError, match="lower --distill-lr"):
        distill(two_maps(teacher_of(tmp_path)), batches(), Distilling(steps=4, lr=1e30))
