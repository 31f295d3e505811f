"""The text of an answer as it is sent, token by token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loralab.serving.text import TextSoFar
from small_tokenizers import KINDS, small_tokenizer
from tiny import byte_tokenizer

BYTES = byte_tokenizer()


def sent(text: str, *stops: str) -> tuple[list[str], TextSoFar]:
    """The pieces of a text that comes in byte by byte, up to where it stops."""
    writer, pieces = TextSoFar(BYTES, stops), []
    for id in BYTES(text, add_special_tokens=False)["input_ids"]:
        pieces.append(writer.add(id))
        if writer.stopped:
            break
    return [*pieces, writer.finish()], writer


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_all_of_the_text_comes_and_no_half_of_a_character(text: str) -> None:
    pieces, _ = sent(text)
    whole = BYTES.decode(BYTES(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    assert "".join(pieces) == whole
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(before=st.text("ab→é", max_size=12), after=st.text("ab→é", max_size=5))
def test_nothing_of_a_stop_or_after_it_is_sent(before: str, after: str) -> None:
    pieces, writer = sent(f"{before}é→!{after}", "é→!", "never")
    assert ("".join(pieces), writer.stopped) == (before, True)


def test_what_might_have_been_a_stop_comes_in_the_end() -> None:
    pieces, writer = sent("one\nUse", "\nUser:")
    assert ("".join(pieces), writer.stopped) == ("one\nUse", False)
    assert "".join(pieces[:-1]) == "one"


def test_bytes_that_never_become_a_character_are_told_at_the_end() -> None:
    ids = BYTES("é", add_special_tokens=False)["input_ids"][:1]
    writer = TextSoFar(BYTES)
    assert (writer.add(ids[0]), writer.finish()) == ("", "\ufffd")


@pytest.mark.parametrize("kind", KINDS)
def test_spaces_are_those_of_the_whole_text(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    ids = tokenizer("the quick brown fox, and the lazy dog.", add_special_tokens=False)["input_ids"]
    writer = TextSoFar(tokenizer)
    pieces = [writer.add(id) for id in ids]
    assert "".join([*pieces, writer.finish()]) == tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
