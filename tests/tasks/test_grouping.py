from loralab.tasks.example import Example
from loralab.tasks.outputs import one_per_input


def test_references_of_the_same_prompt_come_together_in_the_order_of_first_appearance() -> None:
    examples = [Example("m", " 1", ("1",), "a"), Example("n", " 2"), Example("m", " 3", ("3", "4"))]
    assert one_per_input(examples) == (Example("m", " 1", ("1", "3", "4"), "a"), Example("n", " 2", ("2",)))


def test_equal_references_are_all_kept() -> None:
    assert one_per_input([Example("m", " 1")] * 2) == (Example("m", " 1", ("1", "1")),)


def test_prompts_that_differ_in_case_are_two_inputs() -> None:
    assert len(one_per_input([Example("m", "1"), Example("M", "1")])) == 2
