"""The tokens of a text, as the official scripts split it: one function per script.

All lower-case the text first, as every script that is followed here counts without regard to case. The official ones
expect spaces between words; `loralab.metrics.scripts` puts some where a way of writing has none.
"""

import re
import unicodedata
from functools import cache, lru_cache
from typing import Any

import regex

from loralab.extras import lazy
from loralab.metrics.scripts import LETTER, MARK

sacrebleu = lazy("sacrebleu.metrics.bleu", "metrics")

WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
"""A run of word characters, or one other character."""

CAPTION_TOKEN = re.compile(r"[^\W_]+(?:(?:[-/&'.]|(?<=\d)[,:](?=\d))[^\W_]+)*|\S")
"""A word with what joins its parts (family-friendly, u.s, 20.50, 5/5), or one other character."""

CLITIC = re.compile(r"(?<=.)(?:n't|'(?:s|re|ve|ll|d|m))$")
"""What the Penn Treebank splits off a word: isn't -> is n't."""

_ROUGE_LETTER = rf"[[\p{{L}}\p{{N}}]--{LETTER}--[\p{{No}}&&\p{{Script=Common}}]]"
_ROUGE_WORD = regex.compile(
    rf"(?V1){LETTER}{MARK}*|{_ROUGE_LETTER}(?:{_ROUGE_LETTER}|{MARK}|[\u200c\u200d](?=\p{{L}}))*"
)
"""A character of a script without spaces, or a run of letters and digits with what is written above and below them.
Raised and framed digits and fractions are none.
"""

_SIGN = regex.compile(r"\X")
"""What is seen as one character."""

_ROUGE_PIECE = re.compile(r"[^a-z0-9]*[a-z0-9]+[^a-z0-9]*")
"""What lies between two letters that rouge-score drops is of the word before: na-ï-ve has two words there."""

PUNCTUATION = frozenset(".,:;?!-–—…'`\"‘’“”")
"""The tokens that coco-caption leaves out; brackets and other signs stay."""


def mteval_tokens(text: str) -> list[str]:
    """Those of NIST's mteval-v13a.pl, by sacrebleu."""
    return str(_mteval_tokenizer()(text.lower())).split()


@cache
def _mteval_tokenizer() -> Any:
    return sacrebleu.BLEU(tokenize="13a").tokenizer


def words_and_signs(text: str) -> list[str]:
    """Split at every character that is not of a word, as the LoRA authors' decoder with `--tokenize --lower`."""
    return WORD_OR_SIGN.findall(text.lower())


def rouge_words(text: str) -> list[str]:
    """Google's rouge-score's, runs of a–z and 0–9, with the letters that it drops: as many words in English.

    An accented letter stays with the word or part of one that it stands in (café; rouge-score reads caf, and splits
    naïve in two, which is kept); a word without any of a–z and 0–9 is one word; a character of a script without
    spaces is one. A text of no words, but with signs beyond ASCII (an emoji), consists of these signs.
    """
    composed = unicodedata.normalize("NFC", text.lower())
    words = [piece for word in _ROUGE_WORD.findall(composed) for piece in _ROUGE_PIECE.findall(word) or [word]]
    return words or [sign for sign in _SIGN.findall(composed) if not sign.isascii() and not sign.isspace()]


@lru_cache(maxsize=2**16)
def caption_words(text: str) -> tuple[str, ...]:
    """Near to coco-caption's, which runs Stanford's PTBTokenizer (Java) and leaves punctuation out.

    On the 51,018 different texts of the E2E data all but 67 get the same words. Differences: the stop of an
    abbreviation is left out (st. -> st) and so is the sign of a number.
    """
    tokens = CAPTION_TOKEN.findall(text.lower().replace("’", "'"))
    return tuple(word for token in tokens if token not in PUNCTUATION for word in _parts(token))


def _parts(token: str) -> tuple[str, ...]:
    if token == "cannot":
        return "can", "not"
    clitic = CLITIC.search(token)
    return (token[: clitic.start()], clitic.group()) if clitic else (token,)
