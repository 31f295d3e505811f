"""The cosine regulariser of "Your Transformer is Secretly Linear" (arXiv 2405.12250): a training option.

    λ · mean over blocks ℓ of mean over real tokens of (1 − cos(h_ℓ, h_{ℓ+1}))        in float32

h_ℓ is the residual stream that enters block ℓ; the last one leaves the last block, before the final norm. It pulls the
states of neighbouring blocks together. The form of the sum is recalled, not confirmed, and λ is not known from the
paper. Dividing by the number of blocks makes λ mean the same at every depth.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.errors import SpecError
from loralab.models.families.aliases import block_paths
from loralab.tasks.encoding.batches import Batch


class NeighbourCosine:
    """The regulariser of one model, of weight λ."""

    def __init__(self, blocks: nn.ModuleList, weight: float) -> None:
        self.blocks = blocks
        self.weight = weight
        self.states_BTD: dict[int, Tensor] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep the states of the last forward pass in here; what checkpointing repeats comes later and is not seen."""
        self.states_BTD.clear()
        hooks = [
            block.register_forward_pre_hook(self._enters(number), with_kwargs=True)
            for number, block in enumerate(self.blocks)
        ]
        hooks.append(self.blocks[-1].register_forward_hook(self._leaves))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def penalty(self, batch: Batch) -> Tensor:
        """λ times the mean of 1 − cos over blocks and real tokens of the pass just watched, a float32 scalar."""
        states = [self.states_BTD[number].float() for number in sorted(self.states_BTD)]
        distances_LBT = torch.stack([1 - F.cosine_similarity(h, after, dim=-1) for h, after in pairwise(states)])
        mask_BT = batch.attention_mask
        if mask_BT is None:
            return self.weight * distances_LBT.mean()
        if mask_BT.shape != distances_LBT.shape[1:]:
            raise SpecError("cosine_penalty was asked for with a method that adds positions to the text; leave one out")
        return self.weight * (distances_LBT * mask_BT).sum() / (mask_BT.sum() * len(distances_LBT))

    def _enters(self, number: int) -> Any:
        def keep(block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            self.states_BTD[number] = args[0] if args else kwargs["hidden_states"]

        return keep

    def _leaves(self, block: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.states_BTD[len(self.blocks)] = output if isinstance(output, Tensor) else output[0]


def neighbour_cosine(model: nn.Module, weight: float) -> NeighbourCosine | None:
    """The regulariser of a model, or None for weight 0. SpecError for a model without one list of blocks."""
    if not weight:
        return None
    paths = block_paths(model)
    if len(paths) != 1:
        raise SpecError(
            f"cosine_penalty needs a model with one list of blocks, and {type(model).__name__} has "
            f"{len(paths)} that are known; leave it out"
        )
    blocks = model.get_submodule(paths[0])
    assert isinstance(blocks, nn.ModuleList)
    return NeighbourCosine(blocks, weight)


def watched(regularizer: NeighbourCosine | None) -> AbstractContextManager[None]:
    """The context of a forward pass whose states a regulariser needs, if there is one."""
    return nullcontext() if regularizer is None else regularizer.watched()
