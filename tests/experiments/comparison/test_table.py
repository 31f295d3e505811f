from experiments.invented import full, lora, row
from loralab.experiments.comparison.claims import judge_claims
from loralab.experiments.comparison.config import CompareConfig
from loralab.experiments.comparison.rows import Failure, count_text, readable_time, spread_text
from loralab.experiments.comparison.table import markdown

CONFIG = CompareConfig(model="m", task="glue/rte", out="o", methods=("lora", "full"), seeds=(1, 2))
ROWS = [
    lora(70.0, 72.0, train_examples=100),
    full(60.0, 61.0, lr=1e-5),
    row("bitfit", metrics={}, trainable_params=None, tokens_per_second=None, peak_memory_bytes=None, steps=None,
        seconds=None, failed=(Failure(1, "no biases\nhere"), Failure(2, "a | b"))),
]  # fmt: skip


def test_the_table() -> None:
    lines = markdown(CONFIG, ROWS, []).splitlines()
    assert lines[0] == "# m on glue/rte"
    assert "over seeds 1, 2" in lines[2]
    assert lines[4:9] == [
        "| method | setting | examples | lr | trained | % | accuracy | tokens/s | memory, MB | steps | minutes "
        "| seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| lora | r=4, q,v | 100 | 0.001 | 1,000 | 0.1 | 71.00 ± 1.41 | 1,000 | 1,000 | 100 | 1.5 | 2 |",
        "| full | - | all | 1e-05 | 1,000,000 | 100 | 60.50 ± 0.71 | 1,000 | 1,000 | 100 | 1.5 | 2 |",
        "| bitfit | - | all | 0.001 | - | - | - | - | - | - | - | 0, 2 failed |",
    ]


def test_failures_and_claims_are_below() -> None:
    text = markdown(CONFIG, ROWS, judge_claims([lora(70.0, 72.0), full(60.0, 61.0)]))
    assert "- bitfit, seed 1: no biases here\n" in text
    assert "at most 1% of its parameters: held.** Accuracy of lora r=4, q,v 71 ± 1.41 (2 seeds)" in text
    assert "A rank as small as 1 is enough" not in text, "it was not tested"
    assert "not tested" not in text


def test_where_no_claim_was_tested_there_is_no_word_of_them() -> None:
    assert "claims" not in markdown(CONFIG, ROWS, judge_claims([lora(70.0)]))


def test_a_budget_has_a_column() -> None:
    config = CompareConfig(model="m", task="t", out="o", methods=("lora",), match_params=1010)
    text = markdown(config, [lora(70.0, budget_miss=-0.01), full(1.0, budget_miss=989.1)], [])
    assert "| off budget |" in text
    assert "| 0.1 | -1.0% |" in text
    assert "nearest to 1,010 trained parameters" in text


def test_a_regex_does_not_break_the_table() -> None:
    assert r"| r=4, q\|v |" in markdown(CONFIG, [lora(70.0, targets="q|v")], [])


def test_figures() -> None:
    assert [readable_time(each) for each in (34.4, 720, 11_100)] == ["34 s", "12 min", "3 h 05 min"]
    assert spread_text(lora(2.5, metric="loss").metrics["loss"]) == "2.500"
    assert (count_text(None), count_text(1234.5)) == ("-", "1,234")


def test_few_held_out_examples_are_said_below_the_table() -> None:
    assert "Measured on 3 examples only" in markdown(CONFIG, [lora(40.0, 97.0, held_out_examples=3)], [])
    assert "Measured on" not in markdown(CONFIG, [lora(40.0, 97.0, held_out_examples=50)], [])
