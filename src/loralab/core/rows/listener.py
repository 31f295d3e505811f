"""Hears which tokens a model is called with, and says from which position each sequence's adapter acts.

It stands before every module that takes `input_ids`. Calls that go on from a cache go on from what was heard before: a
start, once found, stays; tokens that come one by one, as generated ones do, invoke nothing; a longer piece of text may,
and its start must lie in it (`call.py`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.adapter import AdapterSet
from loralab.core.layer import Speaker
from loralab.core.rows.call import IDS, Call, Heard, parameters_of
from loralab.core.rows.invocation import NEVER, Starts, shifted
from loralab.errors import SpecError


class Listener:
    """Sets `routing.starts` for the length of each call of a model on which an adapter with an invocation is."""

    def __init__(self, model: nn.Module, adapters: AdapterSet) -> None:
        self.adapters = adapters
        self.inside: list[nn.Module] = []
        self.call: Call | None = None
        self.heard: Heard | None = None
        ears = [module for module in model.modules() if IDS in parameters_of(module)] or [model]
        self.hooks = [module.register_forward_pre_hook(self._before, with_kwargs=True) for module in ears]
        self.hooks += [module.register_forward_hook(self._after, with_kwargs=True, always_call=True) for module in ears]

    def remove(self) -> None:
        """Hear no more."""
        for hook in self.hooks:
            hook.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inside.append(module)
        if len(self.inside) == 1:
            self.call = Call.of(module, args, kwargs)
            self._listen(self.call)

    def _after(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: object) -> None:
        if not self.inside or self.inside[-1] is not module:
            return
        self.inside.pop()
        if self.inside:
            return
        if self.call is not None and self.heard is not None:
            self.call.remember(self.heard, output)
        self.call = self.heard = None
        self.adapters.routing.close()

    def _listen(self, call: Call) -> None:
        if not call.sequences:
            return
        speakers = self._speakers(call)
        invocations = [self.adapters.invocation_of(speaker) for speaker in speakers]
        first_S = self._first(call, speakers, invocations)
        if first_S is None:
            return
        self.heard = Heard(call.text, speakers, first_S)
        if any(invocations):
            self.adapters.routing.starts = Starts(shifted(first_S, -call.past), call.positions, call.kept)

    def _speakers(self, call: Call) -> tuple[Speaker | None, ...]:
        """Who speaks to each sequence."""
        rows = self.adapters.routing.rows
        if rows is None:
            return (self.adapters.routing.active,) * call.sequences
        if len(rows.adapter_S) != call.sequences:
            raise SpecError(
                f"rows() names {len(rows.adapter_S)} sequences, but the model was called with a batch of "
                f"{call.sequences}; give one name per sequence"
            )
        return tuple(rows.names[k] for k in rows.adapter_S.tolist())

    def _first(
        self, call: Call, speakers: Sequence[Speaker | None], invocations: Sequence[tuple[int, ...]]
    ) -> Tensor | None:
        """From which position [S], those in the cache included; 0 where an adapter acts everywhere.

        None where nobody is invoked and no tokens are to be seen.
        """
        rows = self.adapters.routing.rows
        told = rows.starts if rows is not None and rows.starts is not None else (None,) * call.sequences
        first = [start if invocation else 0 for start, invocation in zip(told, invocations, strict=True)]
        for invocation in dict.fromkeys(invocations):
            asked = [i for i, own in enumerate(invocations) if own == invocation and first[i] is None]
            if asked:
                for i, start in zip(asked, call.starts_of(invocation, asked, speakers), strict=True):
                    first[i] = start
        if call.ids is None and not any(invocations):
            return None
        return torch.tensor([NEVER if start is None else start for start in first])
