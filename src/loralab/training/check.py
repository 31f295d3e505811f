"""What must hold in a run that is worth going on with."""

import math
from collections.abc import Iterable

from torch import nn

from loralab.core.adapter import Adapter
from loralab.core.updates.tokens import TOKEN_ROWS
from loralab.errors import TrainingError
from loralab.training.data import StepData


def every_parameter_has_a_gradient(adapter: Adapter, trained: Iterable[tuple[str, nn.Parameter]] | None = None) -> None:
    """After the first backward pass: raise TrainingError naming each trainable tensor without a gradient.

    The method itself says whose first gradient is rightly zero (every A, while B is zero). Copies of the base's own
    tensors may rest: a key's bias shifts all scores alike, and an expert waits for its tokens. But not all of them.
    What the method leaves to chance (AdaMix's experts) may rest too, and so may rows of tokens that a batch lacks.
    `trained` is what bears the gradients, where that is not the adapter's own tensors.
    """
    expected_silent, sleepers = adapter.silent_at_first_step, adapter.sleepers
    own = {f"{path}.{name}" for path, update in adapter.updates.items() for name in update.replacements()}
    named = list(adapter.named_parameters() if trained is None else trained)
    silent = [
        name
        for name, parameter in named
        if name not in own
        and not (name in sleepers and (parameter.grad is None or name.endswith(f".{TOKEN_ROWS}")))
        and (parameter.grad is None or (name not in expected_silent and not parameter.grad.any()))
    ]
    if not silent and not any(parameter.grad is not None and parameter.grad.any() for _, parameter in named):
        silent = [name for name, _ in named]
    if silent:
        raise TrainingError(
            f"{len(silent)} of the adapter's tensors got no gradient in step 1 and would never train: "
            f"{_first(silent)}. Their modules take no part in the loss; leave them out with exclude"
        )


def step_is_finite(loss: float, gradient_norm: float, step: int, data: StepData) -> None:
    """Raise TrainingError naming the step and its examples if the loss or the gradient is NaN or infinite."""
    for name, value in (("loss", loss), ("norm of the gradient", gradient_norm)):
        if not math.isfinite(value):
            examples = [index for chosen in data.indices for index in chosen]
            raise TrainingError(
                f"the {name} of step {step} is {value}; its batch holds the training examples {_first(examples, 16)} "
                "(counted from 0). Lower lr, use clip, or look at these examples"
            )


def _first(items: Iterable[object], count: int = 5) -> str:
    listed = list(items)
    return ", ".join(map(str, listed[:count])) + (f" and {len(listed) - count} more" if len(listed) > count else "")
