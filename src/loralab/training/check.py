"""What must hold in a run that is worth going on with."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from loralab.core.adapter import Adapter
from loralab.core.names import unwrapped
from loralab.core.rows.invocation import NEVER, invocation_starts
from loralab.core.updates.tokens import TOKEN_ROWS, TokenUpdate
from loralab.core.updates.update import WHOLE
from loralab.errors import SpecError, TrainingError, some
from loralab.nn.tensors import tensor_of
from loralab.processes.group import Processes
from loralab.tasks.encoding.encoded import AnyEncoded, Encoded, EncodedPair
from loralab.training.config import TrainConfig
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
            f"{some(silent, 5)}. Their modules take no part in the loss; leave them out with exclude"
        )


def step_is_finite(loss: float, gradient_norm: float, step: int, data: StepData) -> None:
    """Raise TrainingError naming the step and its examples if the loss or the gradient is NaN or infinite."""
    for name, value in (("loss", loss), ("norm of the gradient", gradient_norm)):
        if not math.isfinite(value):
            examples = [index for chosen in data.indices for index in chosen]
            raise TrainingError(
                f"the {name} of step {step} is {value}; its batch holds the training examples "
                f"{some(map(str, examples), 16)} (counted from 0). Lower lr, use clip, or look at these examples"
            )


def check_shared_out(config: TrainConfig, examples: int, processes: Processes) -> None:
    """Raises `SpecError` for a run that cannot be shared out among so many processes."""
    if not processes.are_several:
        return
    for name, there in {"batch_size": config.batch_size, "the data": examples}.items():
        if there < processes.count:
            held = f"holds {there}" if name == "the data" else f"is {there}"
            raise SpecError(
                f"{processes.count} processes share out the examples of every batch, and {name} {held}: some would "
                "have nothing to do; start fewer, or give more examples"
            )
    if config.cosine_penalty:
        raise SpecError(
            f"cosine_penalty {config.cosine_penalty:g} and {processes.count} processes: it is a mean over whole "
            "batches, of which each process has a share; train in one process, or leave it out"
        )


def check_invoked(encoded: Sequence[AnyEncoded], tokens: Sequence[int]) -> list[str]:
    """A note where some examples hold no invocation. Raises `SpecError` where none holds it."""
    if not tokens:
        return []
    lacking = sum(not _is_invoked(example, tokens) for example in encoded)
    if lacking == len(encoded):
        raise SpecError(
            f"invocation_tokens {list(tokens)}: none of the {lacking} training examples holds them as the tokenizer "
            "writes it, so that nothing would train; write the invocation into the prompts, and give its tokens as "
            "they are inside a text"
        )
    share = f"{lacking} of {len(encoded)} training examples hold no invocation {list(tokens)}"
    return [f"{share}: the adapter learns nothing from them"] if lacking else []


def _is_invoked(example: AnyEncoded, tokens: Sequence[int]) -> bool:
    """Whether a target is predicted from the invocation's first token on; any label comes after the whole text."""
    if isinstance(example, EncodedPair):
        return any(_is_invoked(side, tokens) for side in example.sides)
    if not isinstance(example, Encoded):
        return False
    start = int(invocation_starts(torch.tensor([example.input_ids]), tokens))
    if not isinstance(example.labels, list):
        return start != NEVER
    targets = [place for place, label in enumerate(example.labels) if label == example.input_ids[place]]
    return bool(targets) and start < targets[-1]


def resting_notes(adapter: Adapter) -> list[str]:
    """A note for every module some of whose rows are at the end of a run what they are in the base."""
    notes = []
    for path, update in adapter.updates.items():
        if not isinstance(update, TokenUpdate) or update.follows:
            continue
        before = tensor_of(unwrapped(adapter.layers[path]), WHOLE).detach()[list(update.indices)]
        moved = (update.rows_TH.detach() != before.to(update.rows_TH.dtype)).any(1).tolist()
        resting = [index for index, has_moved in zip(update.indices, moved, strict=True) if not has_moved]
        if resting:
            notes.append(
                f"the rows of token {some(map(str, resting), 8)} in {path} are still those of the base: no training "
                "example held them; see whether the tokenizer makes these tokens of the texts"
            )
    return notes
