"""Hears which tokens a model is called with, and says from which position each sequence's adapter acts.

It stands before every module that takes `input_ids`. What was heard is kept on the cache of keys and values that the
call fills, so that later calls go on from it: a start, once found, stays; tokens that come one by one, as generated
ones do, invoke nothing; a longer piece of text may, and its start must lie in it.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.adapter import AdapterSet
from loralab.core.invocation import NEVER, Starts, invocation_starts, shifted
from loralab.core.layer import Speaker
from loralab.errors import AdapterStateError, SpecError

IDS, EMBEDDED, CACHE, KEPT = "input_ids", "inputs_embeds", "past_key_values", "logits_to_keep"
_ON_CACHE = "_loralab_heard"


@dataclass(frozen=True)
class Heard:
    """The tokens [S, positions so far], who spoke to each sequence, and from which position."""

    ids: Tensor | None
    speakers: tuple[Speaker | None, ...]
    first_S: Tensor


class Listener:
    """Sets `routing.starts` for the length of each call of a model on which an adapter with an invocation is."""

    def __init__(self, model: nn.Module, adapters: AdapterSet) -> None:
        self.adapters = adapters
        self.inside: list[nn.Module] = []
        self.heard: Heard | None = None
        ears = [module for module in model.modules() if IDS in _parameters(module)] or [model]
        self.hooks = [module.register_forward_pre_hook(self._before, with_kwargs=True) for module in ears]
        self.hooks += [module.register_forward_hook(self._after, with_kwargs=True, always_call=True) for module in ears]

    def remove(self) -> None:
        """Hear no more."""
        for hook in self.hooks:
            hook.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inside.append(module)
        if len(self.inside) == 1:
            self._listen(Call.of(module, args, kwargs))

    def _after(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: object) -> None:
        if not self.inside or self.inside[-1] is not module:
            return
        self.inside.pop()
        if self.inside:
            return
        filled = kwargs.get(CACHE)
        filled = filled if filled is not None else getattr(output, CACHE, None)
        if self.heard is not None and hasattr(filled, "get_seq_length"):
            setattr(filled, _ON_CACHE, self.heard)
        self.heard = None
        self.adapters.routing.close()

    def _listen(self, call: "Call") -> None:
        speakers = self._speakers(call)
        invocations = [self.adapters.invocation_of(speaker) for speaker in speakers]
        first_S = self._first(call, speakers, invocations)
        if first_S is None:
            return
        self.heard = Heard(call.text, speakers, first_S)
        if any(invocations):
            self.adapters.routing.starts = Starts(shifted(first_S, -call.past), call.positions, call.kept)

    def _speakers(self, call: "Call") -> tuple[Speaker | None, ...]:
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
        self, call: "Call", speakers: Sequence[Speaker | None], invocations: Sequence[tuple[int, ...]]
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


@dataclass(frozen=True)
class Call:
    """One call of a model: its new tokens, and what is known of those in its cache."""

    sequences: int
    positions: int
    ids: Tensor | None
    past: int
    before: Heard | None
    kept: Tensor | None

    @staticmethod
    def of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Call":
        """From what the module is called with."""
        names = _parameters(module)
        given = dict(zip(names, args, strict=False)) | kwargs
        ids = given.get(IDS) if IDS in names else next(iter(given.values()), None)
        is_ids = isinstance(ids, Tensor) and ids.dim() == 2 and not ids.is_floating_point()
        seen = ids if is_ids else given.get(EMBEDDED, ids)
        sequences, positions = seen.shape[:2] if isinstance(seen, Tensor) and seen.dim() >= 2 else (0, 0)
        filled, keep = given.get(CACHE), given.get(KEPT)
        past = 0 if filled is None else int(filled.get_seq_length())
        before = getattr(filled, _ON_CACHE, None) if past else None
        fits = before is not None and len(before.first_S) == sequences
        if isinstance(keep, int):
            keep = torch.arange(positions)[-keep:] if keep else None
        return Call(int(sequences), int(positions), ids if is_ids else None, past, before if fits else None, keep)

    @property
    def text(self) -> Tensor | None:
        """All tokens so far [S, past + T]; None where some were not heard."""
        if self.past == 0 or self.ids is None:
            return self.ids
        earlier = None if self.before is None else self.before.ids
        if earlier is None or earlier.shape[1] < self.past:
            return None
        return torch.cat([earlier[:, : self.past].to(self.ids.device), self.ids], dim=1)

    def starts_of(self, invocation: tuple[int, ...], asked: list[int], speakers: Sequence[Speaker | None]) -> list[int]:
        """Where the adapter of these sequences, which has this invocation, begins to act in each."""
        known = [self._known(i, speakers[i]) for i in asked]
        if all(start is not None for start in known):
            return [start for start in known if start is not None]
        if self.ids is None:
            raise AdapterStateError(
                f"adapter '{speakers[asked[0]]}' acts from its invocation tokens {list(invocation)} on, but the model "
                f"was called without {IDS} to look for them in; call it with {IDS}, or give the positions, as "
                "rows(model, names, starts=[…])"
            )
        text, offset = (self.text, 0) if self.text is not None else (self.ids, self.past)
        found = shifted(invocation_starts(text[asked], invocation), offset).tolist()
        return [
            start if start is not None else self._checked(place, i, speakers[i], invocation)
            for start, place, i in zip(known, found, asked, strict=True)
        ]

    def _known(self, i: int, speaker: Speaker | None) -> int | None:
        """The start that was found before, for as long as the same adapter speaks; None: it is to be looked for."""
        if self.before is None or self.before.speakers[i] != speaker:
            return None
        start = int(self.before.first_S[i])
        return start if start != NEVER or self.positions == 1 else None

    def _checked(self, place: int, i: int, speaker: Speaker | None, invocation: tuple[int, ...]) -> int:
        """A place that was found in the whole text, if the adapter can act from there."""
        if self.past == 0 or (place >= self.past and place != NEVER):
            return place
        if place == NEVER and self.text is not None:
            return NEVER
        is_own = self.before is not None and self.before.speakers[i] == speaker
        if is_own and place + len(invocation) <= self.past:
            return NEVER  # it wrote these tokens itself
        trouble = "were not heard" if place == NEVER else f"hold the invocation's beginning, at position {place}"
        raise AdapterStateError(
            f"adapter '{speaker}' acts from its invocation tokens {list(invocation)} on, but sequence {i} goes on from "
            f"{self.past} cached positions that {trouble}, and were computed without the adapter; put the whole "
            "invocation into one call, or give the positions, as rows(model, names, starts=[…])"
        )


def _parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of what a module's forward takes, in order."""
    return _parameters_of(type(module).forward)


@cache
def _parameters_of(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]
