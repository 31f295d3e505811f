"""Texts as token ids, and ids cut to a length.

Every function takes many texts at once: a tokenizer is several times faster so.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from loralab.nn.targets import IGNORED
from loralab.progress import tracked

AT_ONCE = 1000
"""Texts that the tokenizer is given together: as fast as all of them, and in between one can say how far it is."""

_WORD_AFTER_SPACE = re.compile("[▁Ġ ]([A-Za-z]+)")
"""A token that is a word with the space before it, as each kind of tokenizer writes one."""


@dataclass(frozen=True)
class Reading:
    """A text as the tokens that a model reads."""

    ids: list[int]
    places: list[tuple[int, int]] | None
    """Where each token begins and ends, in characters of the text; None for a tokenizer that does not say (those
    that are written in Python)."""

    def within(self, border: int) -> int:
        """How many tokens lie wholly before a place in the text."""
        assert self.places is not None
        return bisect_right(self.places, border, key=lambda place: place[1])


def read(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, special: bool) -> list[Reading]:
    """Texts as they are read: with `special`, after the tokens that the tokenizer puts before one.

    Those that it puts after one are left off: the text goes on.
    """
    parts = [texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE)]
    return [each for part in tracked(parts, "texts read, in thousands:") for each in _read(part, tokenizer, special)]


def _read(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, special: bool) -> list[Reading]:
    if not tokenizer.is_fast:
        return [Reading(ids, None) for ids in _python_ids(texts, tokenizer, special)]
    tokenized = tokenizer(list(texts), add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    trimmed = _trimmed_ends(tokenizer)
    readings = []
    for row, (ids, places) in enumerate(zip(tokenized["input_ids"], tokenized["offset_mapping"], strict=True)):
        of_text = [place for place, text in enumerate(tokenized.sequence_ids(row)) if text is not None]
        end = of_text[-1] + 1 if of_text else 0
        if trimmed:
            places = [(a, b + trimmed.get(id_, 0)) for id_, (a, b) in zip(ids, places, strict=True)]
        readings.append(Reading(ids[:end], places[:end]))
    return readings


def context_ids(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, special: bool) -> list[list[int]]:
    """What a model is given to go on from, after each prompt.

    Most tokenizers write a space in one token with the word that follows it. A prompt that ends in one would end in a
    token of the space alone, which no text has there: the space is left to the model to write. What a prompt's last
    spaces and line breaks become is found by putting a word after them.
    """
    word = "" if all(map(goes_on_plainly, prompts)) else _a_word(tokenizer)
    trials = [prompt if goes_on_plainly(prompt) else prompt + word for prompt in prompts]
    readings = read(trials, tokenizer, special=special)
    if not tokenizer.is_fast:
        alone = read(prompts, tokenizer, special=special)
        return [one.ids[: common_length(one.ids, on.ids)] for one, on in zip(alone, readings, strict=True)]
    return [reading.ids[: reading.within(len(prompt))] for reading, prompt in zip(readings, prompts, strict=True)]


def goes_on_plainly(prompt: str) -> bool:
    """Whether a prompt ends in no space or line break, nor is empty."""
    return bool(prompt) and not prompt[-1].isspace()


def _a_word(tokenizer: PreTrainedTokenizerBase) -> str:
    """One that the tokenizer writes in one token with the space before it, if it does so with any."""
    words = (
        (id_, match[1]) for token, id_ in tokenizer.get_vocab().items() if (match := _WORD_AFTER_SPACE.fullmatch(token))
    )
    return min(words, default=(0, "x"))[1]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def prompt_ids(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Texts as the tokenizer begins one, without the tokens that some put after it.

    At least one token each, the beginning or end of text, since a first target token needs one before it.
    """
    return [begun(reading.ids, tokenizer) for reading in read(prompts, tokenizer, special=True)]


def whole_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Texts with all the special tokens that the tokenizer puts around one."""
    ids: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    return ids


def plain_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Texts without special tokens, but for those that they spell out."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return ids


def answer_ids(targets: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Texts as an encoder-decoder writes them: with its tokenizer's tokens around one, and an end."""
    answers: list[list[int]] = tokenizer(text_target=list(targets), verbose=False)["input_ids"] if targets else []
    return [ended(ids, tokenizer) for ids in answers]


def begun(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """At least one id: that of a text without any."""
    return ids or [empty_text_id(tokenizer)]


def ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids with the end of text at their end; as they are if it is there already (mBART: before the language)."""
    end = int(tokenizer.eos_token_id)
    return ids if end in ids[-2:] else [*ids, end]


def cut_left(ids: list[int], max_length: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The last `max_length` ids, of which the first remains where it is a beginning of text."""
    if len(ids) <= max_length:
        return ids
    first = int(ids[0] == tokenizer.bos_token_id and max_length > 1)
    return ids[:first] + ids[len(ids) - max_length + first :]


def fit(ids: list[int], labels: list[int], max_length: int, keep_first: bool) -> tuple[list[int], list[int], bool]:
    """Ids and labels in at most `max_length` tokens, and whether that took a cut.

    The left end goes, but for the first token with `keep_first` (a beginning of text), and not beyond the one
    token before the last target: what is still too long then loses its right end.
    """
    surplus = len(ids) - max_length
    if surplus <= 0:
        return ids, labels, False
    context = max(place for place in range(len(ids) - 1) if labels[place] == IGNORED != labels[place + 1])
    first = int(keep_first and context > 0)
    dropped = min(surplus, context - first)
    ids = ids[:first] + ids[first + dropped :]
    labels = labels[:first] + labels[first + dropped :]
    return ids[:max_length], [IGNORED, *labels[1:max_length]], True


def empty_text_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The one token that a text without any is read as: the beginning of text, or what the tokenizer has instead."""
    known = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep", "pad"))
    return int(next((token for token in known if token is not None), 0))


def _trimmed_ends(tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """How many spaces at a token's end its place leaves out: some byte-level tokenizers (Llama 3's) leave out all that
    a token has around its word. What is left out before a word does no harm here.
    """
    places = tokenizer("x x", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if places[-1] != (2, 3):
        return {}
    tokens = ((id_, token, token.rstrip("Ġ")) for token, id_ in tokenizer.get_vocab().items() if token[-1:] == "Ġ")
    return {id_: len(token) - len(word) for id_, token, word in tokens if word}


def _python_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, special: bool) -> list[list[int]]:
    """For a tokenizer that does not say which tokens are of the text: they are found among all of them."""
    plain = plain_ids(texts, tokenizer)
    return [_up_to(*pair) for pair in zip(whole_ids(texts, tokenizer), plain, strict=True)] if special else plain


def _up_to(whole: list[int], own: list[int]) -> list[int]:
    """All ids up to the end of the text's own; all where these are read otherwise among the others."""
    ends = (end for end in range(len(own), len(whole) + 1) if whole[end - len(own) : end] == own)
    return whole[: next(ends, len(whole))]
