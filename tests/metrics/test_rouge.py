import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from loralab.errors import DataError
from loralab.metrics.rouge import rouge_1, rouge_2, rouge_l
from loralab.metrics.tokens import rouge_words


def test_by_hand() -> None:
    prediction, reference = ["the cat sat"], [["the cat on mats sat"]]
    assert rouge_1(prediction, reference) == pytest.approx(100 * 2 * (3 / 3) * (3 / 5) / (3 / 3 + 3 / 5))
    assert rouge_2(prediction, reference) == pytest.approx(100 * 2 * (1 / 2) * (1 / 4) / (1 / 2 + 1 / 4))
    assert rouge_l(["sat cat the"], [["the cat sat"]]) == pytest.approx(100 / 3)


def test_the_best_reference_counts_and_texts_are_averaged() -> None:
    assert rouge_l(["a b", "a b"], [["c d", "a b"], ["c d"]]) == 50.0


def test_same_text_is_100_and_an_empty_one_0() -> None:
    assert rouge_l(["Return it."], [["return IT"]]) == 100.0
    assert rouge_1([""], [["return it"]]) == 0.0


@pytest.mark.parametrize("predictions, references", [(["a"], []), ([], []), (["a"], [[]])])
def test_what_does_not_pair_up(predictions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(DataError):
        rouge_l(predictions, references)


def test_words_of_other_scripts_by_hand() -> None:
    assert rouge_1(["кошка сидела"], [["Кошка спала"]]) == 50.0
    assert rouge_1(["我喜欢猫"], [["我喜欢狗"]]) == 75.0
    assert rouge_2(["我喜欢猫"], [["我喜欢狗"]]) == pytest.approx(100 * 2 / 3)
    assert rouge_l(["मैं घर जाता हूँ"], [["मैं स्कूल जाता हूँ"]]) == 75.0
    assert rouge_1(["나는 학교에 갔다"], [["나는 집에 갔다"]]) == pytest.approx(100 * 2 / 3)
    assert rouge_1(["má"], [["mà"]]) == rouge_1(["café"], [["cafe"]]) == 0.0


@given(text=st.text(st.characters(codec="ascii")))
def test_in_ascii_the_words_are_the_packages(text: str) -> None:
    assert rouge_words(text) == tokenize(text, None)


@pytest.mark.parametrize("text", ["A naïve café, 5² m, ½ cup – “OK” 😊 <file_gif>", "Clément’s résumé", "İzmir €5 ☕"])
def test_in_english_there_are_as_many_words_as_the_packages(text: str) -> None:
    assert len(rouge_words(text)) == len(tokenize(text, None))


@given(one=st.text("abc ", max_size=60), other=st.text("abc ", max_size=60))
def test_any_two_texts_have_the_figures_of_the_package(one: str, other: str) -> None:
    found = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(other, one)
    for metric, kind in ((rouge_1, "rouge1"), (rouge_2, "rouge2"), (rouge_l, "rougeL")):
        assert metric([one], [[other]]) == pytest.approx(100 * found[kind].fmeasure, abs=1e-12)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_samsum_has_the_figures_of_the_package_to_the_last_digit(shared_data: Path, split: str) -> None:
    lines = (shared_data / f"samsum/{split}.jsonl").read_text(encoding="utf-8").splitlines()
    summaries = [json.loads(line)["response"] for line in lines]
    assert all(len(rouge_words(text)) == len(tokenize(text, None)) for text in summaries)
    outputs, answers = [summary[20:] for summary in summaries[:200]], summaries[:200]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    found = [scorer.score(answer, output) for answer, output in zip(answers, outputs, strict=True)]
    for metric, kind in ((rouge_1, "rouge1"), (rouge_2, "rouge2"), (rouge_l, "rougeL")):
        mean = 100 * sum(each[kind].fmeasure for each in found) / len(found)
        assert metric(outputs, [[answer] for answer in answers]) == pytest.approx(mean, abs=1e-12)
