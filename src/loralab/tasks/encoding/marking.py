"""A text that is read as one, as token ids with its targets marked.

A text is tokenized once, as a model will read it: pieces that are tokenized apart can give other tokens than the whole
(SentencePiece puts a space before each, words are cut elsewhere). Which tokens are targets is found from where each
begins and ends in the text.

What stands before a target is what generation is given (`tokens.context_ids`) wherever the whole text begins so.
Elsewhere a token spans the border. It is a target, as it reaches into one; and as generation cannot know of it, what
that is given ends in other tokens: `Marked.spanned` tells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.tokens import Reading, common_length, context_ids, goes_on_plainly, read

Spans = Sequence[tuple[int, int]]
"""Where the targets of a text begin and end, in characters."""


@dataclass(frozen=True)
class Marked:
    """A text as a model reads it."""

    ids: list[int]
    labels: list[int]
    """Per token the token itself where it is a target, and `IGNORED` elsewhere."""
    spanned: bool
    """Whether a token spans the border between a target and what stands before it."""


def mark(
    texts: Sequence[str], targets: Sequence[Spans], tokenizer: PreTrainedTokenizerBase, *, special: bool
) -> list[Marked]:
    """Every text with its targets; with `special`, begun as the tokenizer begins a text."""
    readings = read(texts, tokenizer, special=special)
    contexts = iter(_contexts(texts, targets, tokenizer, special))
    endings = iter(_endings(texts, targets, tokenizer, special))
    return [
        _marked(reading, text, spans, contexts, endings)
        for text, reading, spans in zip(texts, readings, targets, strict=True)
    ]


def _marked(
    reading: Reading, text: str, spans: Spans, contexts: Iterator[list[int]], endings: Iterator[list[int]]
) -> Marked:
    labels = [IGNORED] * len(reading.ids)
    spanned = False
    for start, end in spans:
        first, spans_border = _first(reading, text, start, contexts)
        last = _last(reading, text, end, endings)
        labels[first:last] = reading.ids[first:last]
        spanned = spanned or spans_border
    return Marked(reading.ids, labels, spanned)


def _first(reading: Reading, text: str, start: int, contexts: Iterator[list[int]]) -> tuple[int, bool]:
    """(how many tokens stand before the target that starts there, whether the next one spans the border)."""
    if reading.places is not None and goes_on_plainly(text[:start]):
        before = reading.within(start)
        return before, reading.places[before][0] < start if before < len(reading.ids) else False
    context = next(contexts)
    common = common_length(context, reading.ids)
    if common == len(context):
        return common, False
    return (common if reading.places is None else reading.within(start)), True


def _last(reading: Reading, text: str, end: int, endings: Iterator[list[int]]) -> int:
    """How many tokens stand before the first that is wholly behind the target."""
    if end == len(text):
        return len(reading.ids)
    if reading.places is None:
        return common_length(next(endings), reading.ids)
    inside = reading.within(end)
    cut = inside < len(reading.ids) and reading.places[inside][0] < end
    return inside + int(cut)


def _contexts(
    texts: Sequence[str], targets: Sequence[Spans], tokenizer: PreTrainedTokenizerBase, special: bool
) -> list[list[int]]:
    """What generation is given before each target, where the places of tokens alone do not tell it."""
    prompts = [text[:start] for text, spans in zip(texts, targets, strict=True) for start, _ in spans]
    asked = [prompt for prompt in prompts if not (tokenizer.is_fast and goes_on_plainly(prompt))]
    return context_ids(asked, tokenizer, special=special)


def _endings(
    texts: Sequence[str], targets: Sequence[Spans], tokenizer: PreTrainedTokenizerBase, special: bool
) -> list[list[int]]:
    """All up to the end of each target, read alone, for a tokenizer that does not tell the places of its tokens."""
    if tokenizer.is_fast:
        return []
    ended = [text[:end] for text, spans in zip(texts, targets, strict=True) for _, end in spans if end < len(text)]
    return [reading.ids for reading in read(ended, tokenizer, special=special)]
