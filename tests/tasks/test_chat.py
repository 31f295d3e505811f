import pytest
from transformers import PreTrainedTokenizerFast

from loralab.errors import DataError
from loralab.tasks.chat import conversation_segments, generation_prompt
from loralab.tasks.example import Conversation, Message

TALK = Conversation(
    (Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2"), Message("assistant", "a2"))
)


def test_only_the_assistants_turns_are_targets(tokenizer: PreTrainedTokenizerFast) -> None:
    found = [(segment.text, segment.target) for segment in conversation_segments(TALK, tokenizer)]
    assert found == [
        ("<user>q1<eos>\n<assistant>", False),
        ("a1<eos>", True),
        ("\n<user>q2<eos>\n<assistant>", False),
        ("a2<eos>", True),
    ]


def test_the_generation_prompt_is_all_before_the_last_target(tokenizer: PreTrainedTokenizerFast) -> None:
    segments = conversation_segments(TALK, tokenizer)
    assert generation_prompt(TALK, tokenizer) == "".join(segment.text for segment in segments[:-1])


def test_smollm2s_own_template(smollm2) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(smollm2)
    segments = conversation_segments(TALK, tokenizer)
    assert [segment.text for segment in segments if segment.target] == ["a1<|im_end|>", "a2<|im_end|>"]


def test_a_template_that_rewrites_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="turn 2 otherwise"):
        conversation_segments(TALK, tokenizer)


def test_no_template_and_a_template_that_raises(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(DataError, match="no system turns"):
        conversation_segments(TALK, tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        conversation_segments(TALK, tokenizer)
