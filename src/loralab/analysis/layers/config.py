"""The settings of the analyses of layers, without torch: they are flags too, and `--help` is quick."""

from dataclasses import dataclass
from typing import Literal

Tokens = Literal["last", "all", "mean"]


@dataclass(frozen=True, kw_only=True)
class SampledText:
    """The text to run through a model, in pieces."""

    data: str | None = None
    """The text: a file, or JSON lines with a "text" each; its last fifth is left for measuring. Without it the sources
    of Python's standard library."""

    seed: int = 0
    """Of the choice of pieces of the text."""


@dataclass(frozen=True, kw_only=True)
class Sampling(SampledText):
    """Which states angular distances are taken of."""

    samples: int = 256
    """Pieces of text to run."""

    max_len: int = 512
    """Tokens that a piece may have."""

    tokens: Tokens = "last"
    """Of each piece its last token, all tokens, or the mean of its tokens."""


@dataclass(frozen=True, kw_only=True)
class Clouds(SampledText):
    """The text's tokens that affine maps are fitted and tried on."""

    chunks: int = 128
    """Pieces of the text to run, fitted and held-out ones together."""

    chars: int = 512
    """Characters of a piece; all its tokens count."""

    heldout: float = 0.2
    """Share of the pieces that is kept for a held-out R², from another part of the text."""

    skip_first_token: bool = False
    """Leave the first token of each piece out: its state is often so large that it alone decides the score."""


@dataclass(frozen=True, kw_only=True)
class Measuring(SampledText):
    """What a changed model is measured on."""

    pieces: int = 64
    """Held-out pieces of 1,024 characters for the perplexity."""

    task: str | None = "docstrings"
    """A task to generate for; none measures the perplexity alone."""

    task_data: str | None = None
    """The task's data: the official files, or your own JSONL."""

    split: str = "test"
    """Which split of the task."""

    limit: int = 16
    """Examples of the task to generate for."""

    max_new_tokens: int = 32
    """Tokens that an output may have."""
