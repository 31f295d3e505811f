"""How scripts write words: which put no spaces between them, so that their characters are counted instead.

A word of Chinese, Japanese or Thai is found by a dictionary alone, and two dictionaries disagree; the single character
is what such texts are commonly scored by (sacrebleu's `zh`).
"""

from collections.abc import Iterable, Sequence

import regex

UNSPACED = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Tangut", "Nushu", "Khitan_Small_Script"),
    *("Thai", "Lao", "Khmer", "Myanmar", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Ahom"),
    *("Javanese", "Balinese"),
)
"""Scripts, by Unicode's names, in which words are not parted."""

PARTED_BY_SIGNS = ("Tibetan", "Ethiopic")
"""Scripts that part syllables or words by a sign of their own (་ and ፡) where others have a space."""


def _any_of(scripts: Iterable[str]) -> str:
    return "".join(rf"\p{{Script_Extensions={script}}}" for script in scripts)


LETTER = rf"[[\p{{L}}\p{{Nl}}]&&[{_any_of(UNSPACED)}]]"
"""A letter that is a word of its own (of a regular expression, version 1 of `regex`)."""

MARK = r"[[\p{Mn}\p{Mc}]--\p{Variation_Selector}]"
"""A sign that belongs to the letter before it: a vowel or tone of Hindi, Thai, Arabic or Hebrew, a loose accent."""

_SIGN = (
    rf"[[\p{{P}}&&[{_any_of((*UNSPACED, *PARTED_BY_SIGNS))}\p{{East_Asian_Width=F}}]]--\p{{Script_Extensions=Latin}}]"
)
_ALONE = regex.compile(rf"(?V1){LETTER}\p{{M}}*|{_SIGN}")
_LATIN_LETTER = regex.compile(r"\p{Script=Latin}")
_LETTER = regex.compile(r"\p{L}")

Pairs = tuple[list[str], list[list[str]]]
"""Predictions, and each one's references."""


def spread(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Pairs:
    """Both with spaces around each character that is a word, and around the punctuation of such scripts.

    A prediction is treated as its references are: where these are mostly of another script (a Chinese name in an
    English sentence), both stay as they are, as the official scripts have them.
    """
    answers = [list(each) for each in references]
    outputs = list(predictions)
    for number, each in enumerate(answers):
        if is_unspaced(each):
            outputs[number], answers[number] = _spread(outputs[number]), [_spread(text) for text in each]
    return outputs, answers


def spread_note(references: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Says so where `spread` does something."""
    unspaced = sum(map(is_unspaced, references))
    if not unspaced:
        return ()
    return (
        f"{unspaced} of {len(references)} references are in a script without spaces between words (Chinese, Japanese, "
        "Thai, …): each of its characters counts as a word",
    )


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether characters that are words, or signs that part words, are at least half as many as the other words."""
    characters = words = 0
    for text in texts:
        if text.isascii():
            words += len(text.split())
        else:
            rest, alone = _ALONE.subn(" ", text)
            characters, words = characters + alone, words + len(rest.split())
    return characters > 0 and 2 * characters >= words


def is_mostly_latin(texts: Iterable[str]) -> bool:
    """Whether at least half of all letters are of the Latin script; also of texts without letters."""
    latin = letters = 0
    for text in texts:
        letters += len(_LETTER.findall(text))
        latin += len(_LATIN_LETTER.findall(text))
    return 2 * latin >= letters


def _spread(text: str) -> str:
    return text if text.isascii() else _ALONE.sub(r" \g<0> ", text)
