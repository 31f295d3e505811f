"""A step whose batches are shared out: the shares' losses and gradients add up to those of the whole step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import loralab as ll
from loralab.processes.group import Processes
from loralab.training.data import StepData, TrainingData
from loralab.training.prepare import Prepared, prepare
from tiny import write_bert, write_images, write_lines, write_llama, write_t5, write_vit

COUNT = 7
WEIGHTS = (0.5, 2.0, 1.0, 3.0, 1.0, 1.0, 0.25)
CASES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "causal": (write_llama, {"targets": "q_proj,lm_head"}),
    "packed": (write_llama, {"targets": "q_proj,lm_head", "packing": True, "max_length": 24, "batch_size": 2}),
    "encoder-decoder": (write_t5, {"targets": "q,v"}),
    "classes": (write_bert, {}),
    "values": (write_bert, {"kind": "regression"}),
    "consistency": (write_llama, {"targets": "q_proj", "consistency": 1.0}),
    "dpo": (write_llama, {"targets": "q_proj", "preference": "dpo", "lr": 1e-1}),
    "orpo": (write_llama, {"targets": "q_proj", "preference": "orpo"}),
    "images": (write_vit, {"task": "images"}),
}


def rows(case: str) -> list[dict[str, object]]:
    words = [chr(97 + n) * (1 + n % 4) for n in range(COUNT)]
    pairs = zip(words, WEIGHTS, strict=True)
    if case in ("classes", "values"):
        return [{"text": word, "label": n % 2, "weight": w} for n, (word, w) in enumerate(pairs)]
    if case in ("dpo", "orpo"):
        return [{"prompt": "say", "chosen": word, "rejected": "no", "weight": w} for word, w in pairs]
    return [{"prompt": "say", "completion": word, "weight": w} for word, w in pairs]


def configured(tmp_path: Path, case: str) -> ll.TrainConfig:
    write, changes = CASES[case]
    model, data = write(tmp_path / "model"), tmp_path / "data"
    if case == "images":
        write_images(data)
    else:
        write_lines(data / "train.jsonl", rows(case))
    settings = {"task": "jsonl", "rank": 2, "batch_size": 3, "accumulate": 2, "eval_limit": 0, "init": "gaussian"}
    return ll.TrainConfig(
        model=str(model), data=str(data), out=str(tmp_path / "run"), dtype="float32", device="cpu",
        **settings | changes,
    )  # fmt: skip


def stirred(run: Prepared) -> Prepared:
    """B is zero at the start, and nothing would reach A."""
    with torch.no_grad():
        for parameter in run.trainee.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return run


def share_of(data: TrainingData, config: ll.TrainConfig, index: int, count: int) -> TrainingData:
    sizes = config.batch_size, config.accumulate, config.seed
    return TrainingData(data.encoded, *sizes, data.pad_id, Processes(index, count))


def loss_and_gradient(run: Prepared, steps: list[StepData], data: TrainingData) -> tuple[float, list[torch.Tensor]]:
    objective = run.trainee.objective
    if hasattr(objective, "reference"):
        objective.reference.data, objective.reference.known = data, {}
    run.trainee.optimizer.zero_grad(set_to_none=True)
    loss = sum(objective.backward(step) for step in steps)
    return loss, [each.grad.clone() for each in run.trainee.parameters() if each.grad is not None]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_shares_add_up_to_the_whole(tmp_path: Path, case: str, count: int) -> None:
    config = configured(tmp_path, case)
    run = stirred(prepare(config, "float32"))
    for number in (1, 2):
        whole = run.trainee.data.step(number)
        loss, gradient = loss_and_gradient(run, [whole], run.trainee.data)
        shared = [share_of(run.trainee.data, config, index, count) for index in range(count)]
        steps = [data.step(number) for data in shared]
        assert all((each.tokens, each.targets) == (whole.tokens, whole.targets) for each in steps)
        assert all(each.mass == pytest.approx(whole.mass) and each.indices == whole.indices for each in steps)
        places = sorted(place for each in steps for batch in each.batches if batch.tokens for place in batch.places)
        assert places == sorted(place for batch in whole.batches for place in batch.places)
        shares_loss, shares_gradient = loss_and_gradient(run, steps, shared[0])
        assert shares_loss == pytest.approx(loss, rel=1e-5)
        for own, other in zip(gradient, shares_gradient, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
