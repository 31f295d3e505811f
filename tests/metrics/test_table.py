from loralab.metrics.table import LABEL_METRICS, TEXT_METRICS, higher_is_better


def test_names_are_those_of_the_functions() -> None:
    table = TEXT_METRICS | LABEL_METRICS
    assert len(table) == len(TEXT_METRICS) + len(LABEL_METRICS)
    assert all(function.__name__ == name for name, function in table.items())


def test_all_are_100_for_right_answers() -> None:
    assert {metric(["a b c"], [["a b c"]]) for metric in TEXT_METRICS.values()} == {100.0}
    assert {round(metric([0, 1, 1], [0, 1, 1]), 9) for metric in LABEL_METRICS.values()} == {100.0}


def test_errors_are_better_low() -> None:
    assert [higher_is_better(name) for name in ("rouge_l", "accuracy", "loss", "perplexity")] == [
        True,
        True,
        False,
        False,
    ]
