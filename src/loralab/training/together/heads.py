"""The fresh head of a classifier under several seeds: each run starts with the one that its own seed draws.

A head is drawn while a model is loaded, so another seed's comes from a second copy of the base, which is gone again
before training begins.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loralab.core.names import modules_by_path
from loralab.models.load import LoadedModel
from loralab.training.base import load_for
from loralab.training.draft import Draft


class FreshHeads:
    """What no checkpoint filled in the model of `draft`, by the seed that drew it."""

    def __init__(self, draft: Draft) -> None:
        self.draft, self.now = draft, draft.config.seed
        self._drawn: dict[int, Mapping[str, Tensor]] = {}
        if draft.loaded.fresh:
            self._drawn[self.now] = _values(draft.loaded)

    def put(self, seed: int) -> None:
        """Let the base have the head of this seed."""
        fresh = self.draft.loaded.fresh
        if not fresh or seed == self.now:
            return
        if seed not in self._drawn:
            self._drawn[seed] = _values(load_for(self.draft, seed))
        self.now = seed
        with torch.no_grad():
            for name, tensor in _tensors(self.draft.loaded).items():
                tensor.copy_(self._drawn[seed][name])


def _values(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _tensors(loaded).items()}


def _tensors(loaded: LoadedModel) -> dict[str, Tensor]:
    """The tensors of the fresh modules themselves, also where an adapter is around them."""
    by_path: Mapping[str, nn.Module] = modules_by_path(loaded.model)
    return {
        f"{path}.{name}": tensor
        for path in loaded.fresh
        for name, tensor in by_path[path].named_parameters(recurse=False)
    }
