from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.lib_ter import BeamEditDistance

from loralab.metrics.edit_distance import EditDistance

WORDS = st.lists(st.sampled_from("abcd"), max_size=20)


def by_definition(output: list[str], reference: list[str]) -> int:
    row = list(range(len(reference) + 1))
    for number, token in enumerate(output, start=1):
        before, row = row, [number]
        for place, other in enumerate(reference):
            row.append(min(before[place] + (token != other), before[place + 1] + 1, row[place] + 1))
    return row[-1]


@given(WORDS, WORDS)
def test_it_is_the_edit_distance(output: list[str], reference: list[str]) -> None:
    assert EditDistance(reference).distance(output) == by_definition(output, reference)


@given(WORDS, WORDS.filter(bool))
def test_sacrebleu_says_the_same_of_short_texts_edits_too(output: list[str], reference: list[str]) -> None:
    distance, trace = EditDistance(reference)(output)
    expected, edits = BeamEditDistance(reference)(output)
    assert (distance, trace.translate({})) == (expected, edits)


def test_a_reference_longer_than_a_machine_word() -> None:
    reference = [str(number % 7) for number in range(200)]
    output = reference[5:150] + ["x"] * 9
    assert EditDistance(reference).distance(output) == by_definition(output, reference)
