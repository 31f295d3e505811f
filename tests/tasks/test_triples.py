import pytest

from loralab.errors import DataError
from loralab.tasks.example import Example
from loralab.tasks.triples import Entry, Text, grouped_texts, linearise, parse_triple, single_texts

FIRST = Entry("f, entry 1", (("A_B", "is", '"C"'), ("D", "of", "E")), (Text("one"), Text("two")))
AGAIN = Entry("f, entry 2", FIRST.triples, (Text("three"),))
OTHER = Entry("f, entry 3", (("D", "of", "E"),), (Text("four"),), "Food")


def test_the_prompt_is_that_of_the_lora_authors() -> None:
    assert linearise(FIRST.triples) == 'A_B : is : "C" | D : of : E'


def test_training_has_an_example_per_text_and_evaluation_per_input() -> None:
    prompt = 'A_B : is : "C" | D : of : E ->'
    assert [each.target for each in single_texts([FIRST, AGAIN, OTHER])] == [" one", " two", " three", " four"]
    assert grouped_texts([FIRST, OTHER, AGAIN], lambda entry: entry.category) == (
        Example(prompt, " one", ("one", "two", "three")),
        Example("D : of : E ->", " four", ("four",), "Food"),
    )


def test_an_entry_without_a_text_is_none_to_train_on_and_an_error_to_evaluate() -> None:
    silent = Entry("f, entry 7", FIRST.triples, ())
    assert single_texts([silent]) == ()
    with pytest.raises(DataError, match="f, entry 7: there is no text"):
        grouped_texts([silent])


@pytest.mark.parametrize("text", ["a | b", "a | b | c | d", ""])
def test_a_triple_has_three_parts(text: str) -> None:
    with pytest.raises(DataError, match=r"here: the triple .* parts, expected subject"):
        parse_triple("here", text)


def test_a_triple_is_taken_apart_at_bars() -> None:
    assert parse_triple("", ' A B  | c | "1, 2"') == ("A B", "c", '"1, 2"')
