"""The residual stream of a model between its blocks, level by level, as a text runs through it.

Level ℓ is what enters block ℓ, counted from 0; level L is what leaves the last block, BEFORE the final norm
(transformers' `hidden_states[-1]` is after it). Nothing is kept here: whoever looks says what of a level it keeps.

Shapes: B sequences, T tokens, N real tokens of a batch, D width of the stream.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from loralab.analysis.layers.config import Tokens
from loralab.analysis.layers.texts import TokenBatch
from loralab.errors import NumericsError, SpecError
from loralab.models.families.aliases import family_of
from loralab.models.surgery.blocks import blocks_of
from loralab.nn.mode import evaluating
from loralab.progress import tracked

Visit = Callable[[int, Tensor, Tensor], None]
"""(level, states [B, T, D], mask [B, T]) → None."""


class _Enough(Exception):
    """Ends a forward pass whose higher levels are not needed; no error."""


@torch.no_grad()
def run_levels(model: nn.Module, batches: Iterable[TokenBatch], visit: Visit, levels: range | None = None) -> None:
    """Call `visit` with each of these levels (all of them by default) of each batch, lowest first.

    The forward pass ends at the highest one. Raises NumericsError for a state that is not finite, and SpecError where
    the model inserts positions of its own.
    """
    last = len(blocks_of(model))
    wanted = range(last + 1) if levels is None else levels
    body: Any = getattr(model, "base_model", model)
    family = family_of(model)
    options = {"use_cache": False} if family is not None and family.architecture == "decoder" else {}
    device = next(model.parameters()).device
    with evaluating(model):
        for batch in tracked(list(batches), "batches"):
            mask_BT = batch.mask_BT.to(device)

            def look(level: int, states_BTD: Tensor, mask_BT: Tensor = mask_BT) -> None:
                visit(level, _checked(level, states_BTD, mask_BT), mask_BT)
                if level == wanted[-1] < last:
                    raise _Enough

            with looked_at(model, wanted, look):
                try:
                    body(input_ids=batch.ids_BT.to(device), attention_mask=mask_BT.long(), **options)
                except _Enough:
                    continue


def chosen_states(states_BTD: Tensor, mask_BT: Tensor, tokens: Tokens) -> Tensor:
    """[samples, D]: of each sequence its last real token or the mean of its real tokens, or every real token."""
    if tokens == "all":
        return states_BTD[mask_BT]
    if tokens == "last":
        places = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        last_B = (places * mask_BT).argmax(1)
        return states_BTD[torch.arange(len(last_B), device=mask_BT.device), last_B]
    real_BT1 = mask_BT[:, :, None].to(states_BTD.dtype)
    mean_BD: Tensor = (states_BTD * real_BT1).sum(1) / real_BT1.sum(1)
    return mean_BD


@contextmanager
def looked_at(model: nn.Module, levels: Collection[int], look: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within this `look` is given each of these levels and its states [B, T, D] as it comes up."""
    blocks = list(blocks_of(model))

    def before(level: int) -> RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            look(level, inputs[0] if inputs else named["hidden_states"])

        return blocks[level].register_forward_pre_hook(hook, with_kwargs=True)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        look(len(blocks), output[0] if isinstance(output, tuple) else output)

    handles = [before(level) for level in levels if level < len(blocks)]
    if len(blocks) in levels:
        handles.append(blocks[-1].register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _checked(level: int, states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    if states_BTD.shape[:2] != mask_BT.shape:
        raise SpecError(
            f"{mask_BT.shape[1]} tokens went in and {states_BTD.shape[1]} states came out: the adapter inserts "
            "positions of its own, which this analysis does not follow; leave the adapter out"
        )
    if not bool(torch.isfinite(states_BTD).all()):
        raise NumericsError(f"the states at level {level} are not finite; try --dtype float32")
    return states_BTD
