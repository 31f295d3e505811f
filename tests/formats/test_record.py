"""The structure of an update as data, and an update of that structure again."""

import pytest
import torch
from torch import nn

import loralab as ll
from loralab.core.names import unwrapped
from loralab.formats.record import ModuleRecord, describe, rows_of, runs_of
from toys import TOYS


@pytest.mark.parametrize("rows", [[0], [3, 4, 5], [0, 1, 6, 7, 2], [5, 4, 3], list(range(100))])
def test_runs_give_the_rows_back_in_order(rows: list[int]) -> None:
    assert rows_of(runs_of(rows)).tolist() == rows
    assert len(runs_of(list(range(100)))) == 1


@pytest.mark.parametrize("kind", TOYS)
def test_an_update_of_the_same_structure(kind: str) -> None:
    model = TOYS[kind].build()
    spec = ll.LoRA(rank=2, targets=TOYS[kind].targets, rank_stabilized=True)
    for path, update in ll.attach(model, spec).updates.items():
        base = unwrapped(model.get_submodule(path))
        record = ModuleRecord.from_json(describe(update, base).to_json())
        made = record.build(path, base)
        assert type(made) is type(update)
        expected = {name: tensor.shape for name, tensor in update.named_tensors()}
        assert {name: tensor.shape for name, tensor in made.named_tensors()} == expected
        assert describe(made, base) == record == describe(update, base)


def test_a_structure_that_does_not_fit_is_refused() -> None:
    model = TOYS["fused thirds"].build()
    update = ll.attach(model, ll.LoRA(rank=2, targets=["inner[v]"])).updates["inner"]
    record = describe(update, unwrapped(model.inner))
    with pytest.raises(ll.AdapterFileError, match="rows beyond the 24 there are"):
        record.build("inner", nn.Linear(16, 24))
    with pytest.raises(ll.AdapterFileError, match="inner is a Embedding, but the adapter has an update of the kind"):
        record.build("inner", nn.Embedding(16, 24))


def test_building_draws_no_random_numbers() -> None:
    model = TOYS["linear"].build()
    update = ll.attach(model, ll.LoRA(rank=2, targets=["inner"])).updates["inner"]
    record, before = describe(update, unwrapped(model.inner)), torch.get_rng_state()
    record.build("inner", unwrapped(model.inner))
    assert torch.equal(torch.get_rng_state(), before)
