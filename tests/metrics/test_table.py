from loralab.metrics.classification import LABEL_METRICS
from loralab.metrics.scores import higher_is_better


def test_names_are_those_of_the_functions() -> None:
    assert all(function.__name__ == name for name, function in LABEL_METRICS.items())


def test_all_are_100_for_right_answers() -> None:
    assert {round(metric([0, 1, 1], [0, 1, 1]), 9) for metric in LABEL_METRICS.values()} == {100.0}


def test_errors_are_better_low() -> None:
    assert all(map(higher_is_better, ("bleu", "nist", "meteor", "rouge_l", "cider", "accuracy", "logical_form")))
    assert not any(map(higher_is_better, ("loss", "perplexity", "ter", "unparsable")))
