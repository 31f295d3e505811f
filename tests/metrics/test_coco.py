import math
import sys

import pytest

from loralab.errors import DataError, MissingDependencyError
from loralab.metrics.coco import caption_rouge_l, cider

pytest.importorskip("pycocoevalcap.rouge.rouge", reason="pycocoevalcap is not installed")


def test_rouge_l_by_hand() -> None:
    """Precision 3/4 of the first reference, recall 2/2 of the second."""
    precision, recall, weight = 3 / 4, 2 / 2, 1.2**2
    expected = 100 * (1 + weight) * precision * recall / (recall + weight * precision)
    assert caption_rouge_l(["the cat sat down"], [["the cat sat on it", "The CAT."]]) == pytest.approx(expected)


def test_cider_by_hand() -> None:
    """Of two texts, each word is in one of them: weight log 2. Half of the words and a third of the pairs agree."""
    outputs, references = ["a b c d", "x"], [["a b y z"], ["q"]]
    single, pairs = 2 / 4, 1 / 3
    assert cider(outputs, references) == pytest.approx(10 * (single + pairs) / 4 / 2)


def test_perfect_outputs() -> None:
    outputs = ["One cat sat on it.", "Two dogs ran from there."]
    references = [[text] for text in outputs]
    assert caption_rouge_l(outputs, references) == pytest.approx(100)
    assert cider(outputs, references) == pytest.approx(10)


def test_empty_outputs_and_references_without_a_word() -> None:
    assert caption_rouge_l(["", "a"], [["a b"], ["a"]]) == pytest.approx(50)
    assert cider(["", "a"], [["a b"], ["c"]]) == 0.0
    assert cider(["a", ""], [["?"], ["..."]]) == 0.0
    assert math.isfinite(caption_rouge_l(["a"], [["?"]]))


def test_one_text_alone_weighs_nothing() -> None:
    assert cider(["a b c d"], [["a b c d"]]) == 0.0


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'loralab\[metrics\]'"):
        cider(["a"], [["a"]])


def test_what_does_not_pair_up() -> None:
    with pytest.raises(DataError):
        caption_rouge_l(["a"], [])
