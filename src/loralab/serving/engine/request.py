"""What is asked of the engine, and what it answers, token by token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Reason = Literal["stop", "length", "cancelled", "failed"]
"""Why an answer ended: a token or text that ends it, its largest length, a client that went away, values that are not
finite."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the next token is chosen from the scores of all. Without a temperature it is the likeliest."""

    temperature: float = 0.0
    top_k: int = 0
    """Only so many of the likeliest; 0: all."""
    top_p: float = 1.0
    """Only the likeliest that have this probability together."""
    presence_penalty: float = 0.0
    """Taken from the score of every token that the answer has already."""
    frequency_penalty: float = 0.0
    """Taken from it for every time that it has it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the score of single tokens."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt to be continued."""

    prompt: tuple[int, ...]
    """Token ids, at least one."""
    max_new_tokens: int
    adapter: str | None = None
    """The key of an adapter that the engine holds; None: the base."""
    sampling: SamplingSettings = SamplingSettings()
    pick: Callable[[Tensor], int] | None = None
    """Chooses each next token from what the model scores all, [V] in float32, in the place of `sampling`."""
    ends: frozenset[int] = frozenset()
    """Tokens that end the answer, which does not hold them."""
    logprobs: int | None = None
    """How many of the likeliest tokens to tell with each; None: nothing of probabilities."""


@dataclass(frozen=True)
class Token:
    """A new token of an answer."""

    request: Request
    id: int
    logprob: float | None = None
    """In nats, of the model's own distribution."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """Token and logprob, the likeliest first."""
    known: int = 0
    """Told with the first token: how many of the prompt were not read, for they had been before."""


@dataclass(frozen=True)
class Done:
    """An answer has ended."""

    request: Request
    reason: Reason


Event = Token | Done
