"""One call of a model that keeps what it has read in a cache: its new tokens, and what is known of those before.

What was heard of earlier calls is kept on the cache that they filled, and goes with it wherever it is copied to.

Shapes: S sequences, T positions of this call.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.layer import Speaker
from loralab.core.rows.invocation import NEVER, invocation_starts, shifted
from loralab.errors import AdapterStateError

IDS, EMBEDDED, KEPT = "input_ids", "inputs_embeds", "logits_to_keep"
CACHES = ("cache", "past_key_values", "cache_params")
"""What models call theirs: from transformers 5.24 on the first, before it the others."""
_MEMORIES = ("state", "mems", "past_buckets_states")
"""What models go on from whose memory cannot be told how much it holds, nor marked (RWKV, XLNet, Reformer)."""
_ON_CACHE = "_loralab_heard"


@dataclass(frozen=True)
class Heard:
    """The tokens [S, positions so far], who spoke to each sequence, and from which position."""

    ids: Tensor | None
    speakers: tuple[Speaker | None, ...]
    first_S: Tensor


@dataclass(frozen=True)
class Call:
    """One call of a model: its new tokens, and what is known of those in its cache."""

    sequences: int
    positions: int
    ids: Tensor | None
    past: int
    before: Heard | None
    kept: Tensor | None
    filled: Any
    """The cache that it goes on from."""
    memory: str
    """The name of a memory that it goes on from and that says nothing; empty where there is none."""

    @staticmethod
    def of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Call":
        """From what the module is called with."""
        names = parameters_of(module)
        given = dict(zip(names, args, strict=False)) | kwargs
        ids = given.get(IDS) if IDS in names else next(iter(given.values()), None)
        is_ids = isinstance(ids, Tensor) and ids.dim() == 2 and not ids.is_floating_point()
        seen = ids if is_ids else given.get(EMBEDDED, ids)
        sequences, positions = seen.shape[:2] if isinstance(seen, Tensor) and seen.dim() >= 2 else (0, 0)
        filled = cache_of(given)
        past, before = _before(filled, int(sequences))
        memory = next((name for name in _MEMORIES if given.get(name) is not None), "")
        return Call(
            int(sequences),
            int(positions),
            ids if is_ids else None,
            past,
            before,
            _kept(given.get(KEPT), int(positions)),
            filled,
            memory,
        )

    def remember(self, heard: Heard, output: object) -> None:
        """Keep what was heard on the cache that this call filled: its own, or the one that it made."""
        made = (getattr(output, name, None) for name in CACHES)
        filled = self.filled if self.filled is not None else next((each for each in made if each is not None), None)
        if filled is not None and not isinstance(filled, (tuple, list)):
            setattr(filled, _ON_CACHE, heard)

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
        if self.memory:
            raise AdapterStateError(
                f"adapter '{speakers[asked[0]]}' acts from its invocation tokens {list(invocation)} on, but the model "
                f"goes on from a {self.memory!r} of which it is not known how much it has read; call it on the whole "
                "text (use_cache=False)"
            )
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
        places = shifted(invocation_starts(text[asked], invocation), offset).tolist()
        return [
            start if start is not None else self._checked(place, i, speakers[i], invocation)
            for start, place, i in zip(known, places, asked, strict=True)
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


def cache_of(given: Mapping[str, Any]) -> Any:
    """The cache among what a model is called with; None where there is none."""
    return next((given[name] for name in CACHES if given.get(name) is not None), None)


def with_cache(model: nn.Module, filled: Any) -> dict[str, Any]:
    """The argument by which this model of text takes a cache of keys and values."""
    return {"cache" if "cache" in parameters_of(model) else "past_key_values": filled}


def _before(filled: Any, sequences: int) -> tuple[int, Heard | None]:
    """How many positions a cache holds, and what was heard of them, of as many sequences."""
    heard = getattr(filled, _ON_CACHE, None)
    before = heard if isinstance(heard, Heard) and len(heard.first_S) == sequences else None
    past = 0 if filled is None else _length(filled, before)
    return past, before if past else None


def _length(filled: Any, before: Heard | None) -> int:
    try:
        return int(filled.get_seq_length())
    except (AttributeError, ValueError):  # of a recurrent model, which does not count
        holds = filled.has_previous_state() if hasattr(filled, "has_previous_state") else before is not None
        known = before.ids.shape[1] if before is not None and before.ids is not None else 1  # any number: unheard
        return known if holds else 0


def _kept(keep: Any, positions: int) -> Tensor | None:
    """The positions whose logits are computed, from `logits_to_keep`: how many of the last, or which; None: all."""
    if isinstance(keep, Tensor):
        return keep
    return torch.arange(positions)[-keep:] if keep else None


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """The names of what a module's forward takes, in order."""
    return _names(type(module).forward)


@cache
def _names(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]
