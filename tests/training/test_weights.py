"""An example's weight: what each of its targets counts in the weighted mean that is minimised."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import loralab as ll
from loralab.evaluation.likelihood import mean_target_loss
from loralab.tasks.encoding.batches import collate
from loralab.training.data import StepData
from loralab.training.prepare import Prepared, prepare
from tiny import write_bert, write_lines, write_llama, write_t5

WEIGHTS = (0.5, 2.0, 1.0, 3.0)
WORDS = ("ab", "c", "defg", "hi")
CASES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "causal": (write_llama, {"targets": "q_proj,lm_head"}),
    "encoder-decoder": (write_t5, {"targets": "q,v"}),
    "classes": (write_bert, {}),
    "values": (write_bert, {"kind": "regression"}),
    "consistency": (write_llama, {"targets": "q_proj", "consistency": 1.0, "dropout": 0.0}),
    "smoothed": (write_llama, {"targets": "q_proj"}),
}


def rows(case: str, weights: tuple[float, ...]) -> list[dict[str, object]]:
    if case in ("classes", "values"):
        return [{"text": WORDS[n], "label": n % 2, "weight": weight} for n, weight in enumerate(weights)]
    return [{"prompt": "say", "completion": word, "weight": w} for word, w in zip(WORDS, weights, strict=True)]


def prepared(tmp_path: Path, case: str, weights: tuple[float, ...]) -> Prepared:
    write, changes = CASES[case]
    model = tmp_path / "model"
    if not model.is_dir():
        write(model)
    write_lines(tmp_path / "data" / "train.jsonl", rows(case, weights))
    config = ll.TrainConfig(
        model=str(model), task="jsonl", data=str(tmp_path / "data"), out=str(tmp_path / "run"), rank=2, batch_size=4,
        dtype="float32", device="cpu", eval_limit=0, **changes,
    )  # fmt: skip
    return prepare(config, "float32")


def loss_and_gradient(
    run: Prepared, indices: list[list[int]], smoothing: float = 0.0
) -> tuple[float, list[torch.Tensor]]:
    encoded = run.trainee.data.encoded
    batches = [collate([encoded[index] for index in each], run.trainee.data.pad_id) for each in indices]
    run.trainee.optimizer.zero_grad(set_to_none=True)
    loss = replace(run.trainee.objective, label_smoothing=smoothing).backward(StepData(batches, indices))
    found = [parameter.grad for parameter in run.trainee.parameters()]
    return loss, [torch.zeros(()) if each is None else each.clone() for each in found]


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_weighted_mean_over_targets(tmp_path: Path, case: str) -> None:
    run = prepared(tmp_path, case, WEIGHTS)
    smoothing = 0.1 if case == "smoothed" else 0.0
    alone = [loss_and_gradient(run, [[index]], smoothing) for index in range(4)]
    mass = [w * each.targets for w, each in zip(WEIGHTS, run.trainee.data.encoded, strict=True)]
    wanted = sum(m * loss for m, (loss, _) in zip(mass, alone, strict=True)) / sum(mass)
    wanted_gradient = [
        sum(m * each for m, each in zip(mass, parts, strict=True)) / sum(mass)
        for parts in zip(*(gradients for _, gradients in alone), strict=True)
    ]
    for indices in ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1, 2, 3]]):
        loss, gradients = loss_and_gradient(run, indices, smoothing)
        assert loss == pytest.approx(wanted, rel=1e-5)
        for gradient, each in zip(gradients, wanted_gradient, strict=True):
            # Rounding is of the size of the terms that are summed, on processors without AVX-512 a little above 1e-6.
            torch.testing.assert_close(gradient, each, atol=max(1e-6, 1e-5 * float(each.abs().max())), rtol=1e-4)


def test_a_weight_of_two_is_the_example_twice_and_of_zero_not_at_all(tmp_path: Path) -> None:
    run = prepared(tmp_path, "causal", (2.0, 1.0, 1.0, 0.0))
    assert any("1 of 4 training examples have weight 0" in note for note in run.notes)
    assert len(run.trainee.data.encoded) == 3
    weighted = loss_and_gradient(run, [[0, 1, 2]])[0]
    plain = prepared(tmp_path, "causal", (1.0, 1.0, 1.0, 1.0))
    assert weighted == pytest.approx(loss_and_gradient(plain, [[0, 0, 1, 2]])[0], rel=1e-5)


def test_evaluation_counts_every_example_alike(tmp_path: Path) -> None:
    losses = []
    for weights in (WEIGHTS, (1.0,) * 4):
        run = prepared(tmp_path, "causal", weights)
        losses.append(mean_target_loss(run.loaded.model, run.trainee.data.encoded, 0, 4))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_nothing_but_zeros(tmp_path: Path) -> None:
    with pytest.raises(ll.DataError, match="all 4 training examples have weight 0"):
        prepared(tmp_path, "causal", (0.0,) * 4)
