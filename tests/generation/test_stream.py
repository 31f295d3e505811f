"""Text that is handed on while it is written: all of it, in order, and never what a later token changes."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from loralab.generation.ends import NO_MORE, Ends
from loralab.generation.stream import TextStream


def streamed(text: str, tokenizer: PreTrainedTokenizerFast, ends: Ends = NO_MORE) -> list[str]:
    """The pieces of a text of which every byte is a token."""
    pieces: list[str] = []
    stream = TextStream(tokenizer, pieces.append, [tokenizer.eos_token_id], ends)
    stream.put(torch.tensor([[5, 6, 7]]))  # the prompt, which is not handed on
    for token in tokenizer(text)["input_ids"]:
        stream.put(torch.tensor([token]))
    stream.end()
    return pieces


@pytest.mark.parametrize("text", ["plain", "grüße", "日本", "a 🦙 b", " x  y \n"])
def test_the_pieces_are_the_text_and_hold_whole_characters(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = streamed(text, tokenizer)
    assert "".join(pieces) == text
    assert len(pieces) == len(text)


def test_what_may_begin_an_ending_text_waits(tokenizer: PreTrainedTokenizerFast) -> None:
    ends = Ends(texts=("###",))
    assert streamed("a#b##c", tokenizer, ends) == ["a", "#b", "##c"]
    assert streamed("ab###never", tokenizer, ends) == ["a", "b"]
    assert streamed("ab##", tokenizer, ends) == ["a", "b", "##"]


def test_an_end_of_text_ends_it(tokenizer: PreTrainedTokenizerFast) -> None:
    assert "".join(streamed("ab<eos>cd", tokenizer)) == "ab"
