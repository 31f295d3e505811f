"""The tokens of a text, as the official scripts split it: one function per script. It knows nothing of metrics.

All lower-case the text first, as every script that is followed here counts without regard to case.
"""

import re
from functools import lru_cache

from sacrebleu.metrics.bleu import BLEU

WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
"""A run of word characters, or one other character."""

CAPTION_TOKEN = re.compile(r"[^\W_]+(?:(?:[-/&'.]|(?<=\d)[,:](?=\d))[^\W_]+)*|\S")
"""A word with what joins its parts (family-friendly, u.s, 20.50, 5/5), or one other character."""

CLITIC = re.compile(r"(?<=.)(?:n't|'(?:s|re|ve|ll|d|m))$")
"""What the Penn Treebank splits off a word: isn't -> is n't."""

PUNCTUATION = frozenset(".,:;?!-–—…'`\"‘’“”")
"""The tokens that coco-caption leaves out; brackets and other signs stay."""

_split_as_mteval = BLEU(tokenize="13a").tokenizer


def mteval_tokens(text: str) -> list[str]:
    """Those of NIST's mteval-v13a.pl, by sacrebleu."""
    return str(_split_as_mteval(text.lower())).split()


def words_and_signs(text: str) -> list[str]:
    """Split at every character that is not of a word, as the LoRA authors' decoder with `--tokenize --lower`."""
    return WORD_OR_SIGN.findall(text.lower())


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
