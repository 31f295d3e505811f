"""What holds of every text metric that reads ordinary words, whatever the texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loralab.metrics.bleu import bleu_mteval, bleu_tokenized
from loralab.metrics.coco import caption_rouge_l, cider
from loralab.metrics.nist import nist
from loralab.metrics.ter import corpus_ter, mean_ter

pytest.importorskip("pycocoevalcap.rouge.rouge", reason="pycocoevalcap is not installed")

METRICS = [bleu_mteval, bleu_tokenized, nist, caption_rouge_l, cider, corpus_ter, mean_ter]
NOT_MOVED_BY_DUPLICATES = [bleu_mteval, bleu_tokenized, caption_rouge_l, mean_ter]

words = st.lists(st.sampled_from(["The", "pub", "isn't", "near", "it", ".", ",", "20-25"]), max_size=8).map(" ".join)
references = st.lists(words.filter(bool), min_size=1, max_size=3)
corpora = st.lists(st.tuples(words, references), min_size=1, max_size=4).map(
    lambda pairs: tuple(zip(*pairs, strict=True))
)


@pytest.mark.parametrize("metric", METRICS)
@given(corpus=corpora)
def test_casing_moves_nothing(metric, corpus) -> None:
    outputs, answers = corpus
    cased = [output.upper() for output in outputs], [[answer.title() for answer in each] for each in answers]
    assert metric(*cased) == pytest.approx(metric(outputs, answers))


@pytest.mark.parametrize("metric", METRICS)
@given(corpus=corpora)
def test_the_order_of_references_and_texts_moves_nothing(metric, corpus) -> None:
    outputs, answers = corpus
    turned = outputs[::-1], [each[::-1] for each in reversed(answers)]
    assert metric(*turned) == pytest.approx(metric(outputs, answers))


@pytest.mark.parametrize("metric", NOT_MOVED_BY_DUPLICATES)
@given(corpus=corpora)
def test_a_reference_twice_counts_once(metric, corpus) -> None:
    outputs, answers = corpus
    assert metric(outputs, [[*each, each[0]] for each in answers]) == pytest.approx(metric(outputs, answers))


@pytest.mark.parametrize("metric, best", [(caption_rouge_l, 100), (corpus_ter, 0), (mean_ter, 0)])
@given(answers=st.lists(references, min_size=1, max_size=4))
def test_a_reference_itself_is_perfect(metric, best: float, answers) -> None:
    assert metric([each[-1] for each in answers], answers) == pytest.approx(best)


@pytest.mark.parametrize(
    "metric, worst", [(bleu_mteval, 0), (bleu_tokenized, 0), (nist, 0), (cider, 0), (mean_ter, 100)]
)
@given(answers=st.lists(references, min_size=1, max_size=4))
def test_empty_outputs_are_the_worst(metric, worst: float, answers) -> None:
    assert metric([""] * len(answers), answers) == pytest.approx(worst)
