import math

import pytest
from sacrebleu.metrics.bleu import BLEU

from loralab.errors import DataError
from loralab.metrics.bleu import bleu_mteval, bleu_tokenized

SENTENCE = "the cat sat on the mat ."


def test_by_hand() -> None:
    precisions = (6 / 7, 4 / 6, 2 / 5, 1 / 4)
    expected = 100 * math.prod(precisions) ** 0.25
    assert bleu_tokenized(["the cat sat on a mat ."], [[SENTENCE]]) == pytest.approx(expected)


def test_a_perfect_output_and_an_empty_one() -> None:
    for bleu in (bleu_mteval, bleu_tokenized):
        assert bleu([SENTENCE], [[SENTENCE]]) == pytest.approx(100)
        assert bleu(["", SENTENCE], [["a"], [SENTENCE]]) < 100
        assert bleu([""], [[SENTENCE]]) == 0.0


def test_no_smoothing() -> None:
    assert bleu_tokenized(["the cat sat"], [["the cat sat"]]) == 0.0
    assert bleu_mteval(["the cat sat down"], [["the cat sat on it"]]) == 0.0


def test_tokens_are_split_from_ordinary_text_only() -> None:
    glued = SENTENCE.replace(" .", ".")
    assert bleu_mteval([glued], [[SENTENCE]]) == pytest.approx(100)
    assert bleu_tokenized([glued], [[SENTENCE]]) < 80


def test_any_number_of_references() -> None:
    references = [["x"], ["y", SENTENCE, "z"]]
    assert bleu_mteval(["x", SENTENCE], references) == pytest.approx(100)


def test_a_blank_reference_has_length_0() -> None:
    """Of the lengths 9 and 0 the output's 4 is closer to 0, so there is no penalty of brevity."""
    output, reference = "a b c d", "a b c d e f g h i"
    assert bleu_tokenized([output], [[reference]]) == pytest.approx(100 * math.exp(1 - 9 / 4))
    assert bleu_tokenized([output], [[reference, ""]]) == pytest.approx(100)


def test_of_equally_close_lengths_the_shorter_counts() -> None:
    output, longer, shorter = "a b c d", "a b c d e f", "a b"
    assert bleu_tokenized([output], [[longer, shorter]]) == pytest.approx(100)
    assert bleu_tokenized([output], [[shorter, longer]]) == pytest.approx(100)


def test_what_does_not_pair_up() -> None:
    with pytest.raises(DataError, match="1 predictions for 2"):
        bleu_mteval(["a"], [["a"], ["b"]])


def test_chinese_is_sacrebleus() -> None:
    outputs = ["我今天在北京的图书馆看书。", "他有 3,000 本 Python 书，很贵！"]
    references = ["我今天去了北京的图书馆看书。", "他有3,000本 Python 的书，很贵！"]
    expected = BLEU(tokenize="zh", lowercase=True, smooth_method="none").corpus_score(outputs, [references]).score
    assert bleu_mteval(outputs, [[each] for each in references]) == pytest.approx(expected)


def test_a_chinese_name_in_english_stays_one_token() -> None:
    """As in DART, whose official figures must not move."""
    texts = ["the code of ten mile junction station (Chinese name: 十里广场) is BP14", "a b c d e"]
    expected = BLEU(tokenize="13a", lowercase=True, smooth_method="none").corpus_score(
        [texts[0].replace("广", "广广"), texts[1]], [texts]
    )
    assert bleu_mteval([texts[0].replace("广", "广广"), texts[1]], [[each] for each in texts]) == pytest.approx(
        expected.score
    )
