from pathlib import Path

from loralab.tasks.example import Example
from loralab.tasks.own.jsonl import open_jsonl
from loralab.tasks.own.shapes import INPUT, instruction_prompt


def test_the_prompt_with_and_without_an_input() -> None:
    assert instruction_prompt("Add.", "1 2") == "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    assert instruction_prompt("Sing.") == "### Instruction:\nSing.\n\n### Response:\n"
    assert instruction_prompt("Sing.", " \n") == instruction_prompt("Sing.")


def test_a_cut_of_alpaca(shared_data: Path) -> None:
    task = open_jsonl(str(shared_data / "alpaca"))
    examples = [each for each in task.examples("all") if isinstance(each, Example)]
    assert (len(examples), sum(INPUT in each.prompt for each in examples)) == (5000, 2166)
    assert {split: len(task.examples(split)) for split in ("train", "validation", "test")} == {
        "train": 4500,
        "validation": 250,
        "test": 250,
    }
    assert all(each.prompt.endswith("\n") and not each.target.startswith(" ") for each in examples)
