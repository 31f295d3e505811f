from dataclasses import replace

from loralab.experiments.latency.config import InputSize
from loralab.experiments.latency.contenders import contenders
from loralab.experiments.latency.operators import OperatorCount
from loralab.experiments.latency.rows import Latency, Machine, as_answer, noise_of, rows_of
from loralab.experiments.latency.table import markdown

AMONG = contenders(rank=4, sizes=(250,))
SAME, MORE = OperatorCount(100, 0, 0, True), OperatorCount(120, 20, 3_000_000, False)


def latency(merged: float = 1.0, rounds: int = 5) -> Latency:
    factors = {"lora-merged": merged, "adapter-h": 1.25}
    timings = [{each: 10.0 * factors.get(each.name, 1.0) for each in AMONG}] * rounds
    rows = rows_of(InputSize(1, 128), timings, {each: 11_000_000 if each.size == 250 else each.size for each in AMONG})
    operators = {str(each): MORE if each.size == 250 or each.name == "lora-live" else SAME for each in AMONG}
    machine = Machine("a processor", 1, "2.13", 0.5)
    noise = (noise_of(rows, rounds),)
    return Latency("m", True, "float32", machine, rounds, 3, "1x128", operators, tuple(rows), noise)


def test_the_table_has_the_papers_figure_beside_ours() -> None:
    lines = markdown(latency()).splitlines()
    assert "| 1 | 128 | adapter-h | 250 | 11,000,000 | 12.5 | 1.250 (1.250–1.250) | 1.303 |" in lines
    assert "| 1 | 128 | lora-merged | 4 | 4 | 10.0 | 1.000 (1.000–1.000), noise | 1.000 |" in lines
    assert "| 1 | 128 | base-again | - | - | 10.0 | 1.000 (1.000–1.000) | 1.000 |" in lines
    assert "| adapter-l 250 | 120 | 20 | 3.0 | no |" in lines
    assert "The weights are random" in lines[2]
    assert "1 thread of a processor" in lines[2]


def test_the_verdicts_name_the_settings_in_which_they_fail() -> None:
    assert "still attached (`lora-merged`): **yes**;" in markdown(latency())
    slower = latency(merged=1.1)
    assert "still attached (`lora-merged`): **no** (not at 1x128); in plain modules (`lora-deployed`): **yes**." in (
        markdown(slower)
    )
    assert "**not judged, which takes 5 rounds**" in markdown(latency(rounds=2))


def test_other_times_of_equal_operators_are_the_machines() -> None:
    assert "lora-merged −63.0% at 1x128. That is what else the machine did meanwhile" in markdown(latency(merged=0.37))
    assert "meanwhile" not in markdown(latency())


def test_the_answer() -> None:
    answer = as_answer(latency())
    assert (answer["merged_operations_equal"], answer["merged_within_noise"]) == (True, True)
    assert (answer["model"], answer["dtype"], answer["threads"], answer["processor"]) == (
        "m", "float32", 1, "a processor",
    )  # fmt: skip
    assert answer["rows"][0].keys() >= {"batch", "sequence", "contender", "size", "parameters", "milliseconds", "ratio"}
    assert as_answer(latency(merged=1.1))["merged_within_noise"] is False
    assert as_answer(latency(rounds=2))["merged_within_noise"] is None


def test_one_merged_operator_that_differs_is_enough() -> None:
    sound = latency()
    spoilt = replace(sound, operators=sound.operators | {"lora-deployed 4": MORE})
    assert (sound.merged_operations_equal, spoilt.merged_operations_equal) == (True, False)
