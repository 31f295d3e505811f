"""How often a step waits for the device it computes on: what reads a number of a tensor stops the queue of a GPU."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loralab.training.loop import clip_gradients
from loralab.training.prepare import prepare
from training.conftest import Run

WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select")
OF_A_BATCH = 3
"""Where the targets are, whether padding is on the right, and transformers' look for packed rows."""
OF_A_STEP = 1
"""The norm of the gradient; the losses of all batches are read at once, which a CPU does without one of these."""


class Waits(TorchDispatchMode):
    """Counts the operations within it whose result a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.update([func.name()] if func.name() in WAITING else [])
        return func(*args, **kwargs or {})


def test_a_step_waits_for_what_is_logged_and_little_else(configured: Run) -> None:
    config = configured(accumulate=3, batch_size=4, targets="q_proj,v_proj")
    trainee = prepare(config, "float32").trainee
    trainee.model.train()
    trainee.objective.backward(trainee.data.step(1))  # what is looked at once
    with Waits() as waits:
        trainee.objective.backward(trainee.data.step(2))
        clip_gradients(trainee, config.clip)
        trainee.optimizer.step()
    assert waits.found.total() <= 3 * OF_A_BATCH + OF_A_STEP, waits.found


def test_a_batch_goes_to_a_gpu_from_memory_that_stays_in_its_place(configured: Run) -> None:
    batch = prepare(configured(), "float32").trainee.data.step(1).batches[0]
    there = batch.to("meta")
    assert {each.device.type for each in there.inputs.values()} == {"meta"}
    assert batch.to("cpu").input_ids.data_ptr() == batch.input_ids.data_ptr()
    if torch.cuda.is_available():
        assert batch.to("cuda").input_ids.device.type == "cuda"
