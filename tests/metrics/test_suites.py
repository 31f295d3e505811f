import sys
from pathlib import Path

import pytest

from loralab.errors import DataError
from loralab.metrics.bleu import bleu_mteval
from loralab.metrics.suites import score_e2e, score_rouge, score_tokenized_triples, score_triples

SUITES = [score_e2e, score_triples, score_tokenized_triples]


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METEOR takes seconds to start, and what it gives is tested elsewhere."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_java")
def test_what_lacks_java_is_left_out_and_said() -> None:
    scores = score_e2e(["A pub near the river."], [["A pub near the river."]])
    assert list(scores.metrics) == ["bleu", "nist", "rouge_l", "cider"]
    assert scores.metrics["bleu"] == scores.metrics["rouge_l"] == 100.0
    assert len(scores.notes) == 1
    assert "left out: meteor, as there is no java on the PATH" in scores.notes[0]


@pytest.mark.usefixtures("no_java")
def test_what_lacks_the_package_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rouge.rouge", "cider.cider"):
        monkeypatch.setitem(sys.modules, f"pycocoevalcap.{name}", None)
    scores = score_e2e(["a"], [["a"]])
    assert list(scores.metrics) == ["bleu", "nist"]
    assert all("pip install 'loralab[metrics]'" in note for note in scores.notes[1:])
    assert [note.split(",")[0] for note in scores.notes] == ["left out: meteor", "left out: rouge_l", "left out: cider"]


@pytest.mark.usefixtures("no_java")
def test_triples_are_split_at_every_sign() -> None:
    scores = score_triples(["It's Alan's 3.5-litre_car"], [["it ' s alan ' s 3 . 5 - LITRE_CAR"]])
    assert scores.metrics == {"bleu": pytest.approx(100), "ter": 0.0}


@pytest.mark.usefixtures("no_java")
def test_of_triples_six_references_count_and_more_are_said() -> None:
    references = ["x", "x", "x", "x", "x", "y", "a b c d"]
    scores = score_triples(["a b c d", "q r"], [references, ["q r"]])
    assert scores.metrics["ter"] == pytest.approx(100 * (4 / 1 + 0 / 2) / 2)
    assert scores.notes[0].startswith("of the 1 texts with more than 6 references only the first ones count")
    assert score_triples(["a b c d"], [references[1:]]).metrics["ter"] == 0.0


@pytest.mark.usefixtures("no_java")
def test_tokenized_triples_stand_as_they_are() -> None:
    scores = score_tokenized_triples(["alan 's pub ."] * 2, [["Alan 's pub .", ""], ["alan's pub.", ""]])
    assert scores.metrics["ter"] == pytest.approx(100 * (0 + 4) / (4 + 2))
    assert scores.metrics["bleu"] == pytest.approx(50)
    assert len(scores.notes) == 1


@pytest.mark.usefixtures("no_java")
def test_untokenized_outputs_are_noticed() -> None:
    glued, split = "a pub by the river.", "a pub by the river ."
    assert "glued" in score_tokenized_triples([glued, glued, split], [[split]] * 3).notes[0]
    assert "glued" not in score_tokenized_triples([glued, split], [[split]] * 2).notes[0]


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("suite", SUITES)
def test_empty_outputs_are_legal(suite) -> None:
    assert suite(["", " "], [["a b c d e"], ["the pub"]]).metrics["bleu"] == 0.0
    assert suite(["", "the pub is here ."], [["a b"], ["the pub is here ."]]).metrics["bleu"] > 0


@pytest.mark.parametrize("suite", SUITES)
def test_blank_references(suite, no_java: None) -> None:
    with pytest.raises(DataError, match="all references of prediction 1 are blank"):
        suite(["a"], [["", " "]])
    with pytest.raises(DataError, match="2 predictions for 1 references"):
        suite(["a", "b"], [["a"]])


@pytest.mark.usefixtures("no_java")
def test_blank_references_are_none_for_e2e() -> None:
    references = ["the pub is near the river .", "it is a pub ."]
    assert score_e2e(["a pub ."], [[*references, ""]]) == score_e2e(["a pub ."], [references])


def test_rouge_is_googles() -> None:
    assert score_rouge(["the pub"], [["The pub!"]]).metrics == {"rouge_1": 100.0, "rouge_2": 100.0, "rouge_l": 100.0}


def test_an_empty_answer_may_be_the_right_one_for_rouge() -> None:
    assert score_rouge([""], [[""]]).metrics["rouge_l"] == 0.0


def test_bleu_of_triples_is_that_of_their_tokens(no_java: None) -> None:
    """GenerationEval's multi-bleu-detok.perl splits what is already split once more: at underscores."""
    outputs, references = ["a_b c d e f"], [["a_b c d e g"]]
    assert score_triples(outputs, references).metrics["bleu"] == bleu_mteval(["a _ b c d e f"], [["a _ b c d e g"]])


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("suite", SUITES)
def test_a_script_without_spaces_is_read_by_characters_and_said(suite) -> None:
    text = "我今天在北京的图书馆看书"
    scores = suite([text], [[text]])
    assert scores.metrics["bleu"] == pytest.approx(100)
    assert any("1 of 1 references are in a script without spaces" in note for note in scores.notes)
    assert any("METEOR" in note and "English" in note for note in scores.notes)


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("suite", [*SUITES, score_rouge])
def test_nothing_is_said_of_english(suite) -> None:
    text = "The café (Chinese name: 十里广场) is on the other side of the river ."
    assert not [note for note in suite([text], [[text]]).notes if "script" in note or "English" in note]


def test_rouge_says_what_it_counts() -> None:
    scores = score_rouge(["東京へ行く", "a"], [["東京へ行く"], ["a"]])
    assert scores.metrics["rouge_2"] == 50.0
    assert scores.notes[0].startswith("1 of 2 references are in a script without spaces")
