import pytest
from transformers import PreTrainedTokenizerFast

from loralab.errors import DataError
from loralab.tasks.encoding.chat import answer_context, prompt_is_kept, templated
from loralab.tasks.encoding.encode import encode_examples
from loralab.tasks.encoding.turn_end import turn_end
from loralab.tasks.example import Conversation, Message
from loralab.tasks.task import Task
from small_tokenizers import small_tokenizer

WRITE = Task("toy", "generation", {}, ())
TALK = Conversation(
    (Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2"), Message("assistant", "a2"))
)
THINKING = Conversation((*TALK.messages[:3], Message("assistant", "<think>\nso\n</think>\n\na2")))

QWEN_3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set said = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in m.content else '' %}"
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ said }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes a thinking, perhaps an empty one, into what follows the last question, and into no earlier turn."""
R1 = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}<User>{{ m.content }}"
    "{% else %}<Assistant>{{ m.content.split('</think>')[-1] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<Assistant><think>\n{% endif %}"
)
"""Opens a thinking before every answer, and writes none into a finished turn."""


def pieces(tokenizer: PreTrainedTokenizerFast, conversation: Conversation = TALK) -> list[str]:
    """The targets of a conversation."""
    found = templated(conversation, tokenizer, turn_end(tokenizer))
    return [found.text[start:end] for start, end in found.targets]


def test_only_the_assistants_turns_are_targets(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer) == ["a1<eos>", "a2<eos>"]
    found = templated(TALK, tokenizer, turn_end(tokenizer))
    assert found.text == "<user>q1<eos>\n<assistant>a1<eos>\n<user>q2<eos>\n<assistant>a2<eos>\n"
    assert found.left == 0


def test_the_context_is_all_before_the_last_target(tokenizer: PreTrainedTokenizerFast) -> None:
    found = templated(TALK, tokenizer, turn_end(tokenizer))
    assert answer_context(TALK, tokenizer) == found.text[: found.targets[-1][0]]


def test_smollm2s_own_template(smollm2) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(smollm2)
    assert pieces(tokenizer) == ["a1<|im_end|>", "a2<|im_end|>"]


def test_a_turn_ends_with_what_the_template_ends_it_with() -> None:
    assert pieces(small_tokenizer("byte-level")) == ["a1<|im_end|>", "a2<|im_end|>"]


def test_turns_that_are_written_otherwise_in_the_end_are_left_out_and_said() -> None:
    tokenizer = small_tokenizer("byte-level", QWEN_3)
    assert pieces(tokenizer) == ["<think>\n\n</think>\n\na2<|im_end|>"]
    assert pieces(tokenizer, THINKING) == ["<think>\nso\n</think>\n\na2<|im_end|>"]
    notes = encode_examples(WRITE, [TALK, THINKING], tokenizer, 200).notes
    assert "writes 2 of 4 assistant turns otherwise" in notes[0]


def test_a_prompt_that_opens_a_thinking_which_no_finished_turn_has() -> None:
    tokenizer = small_tokenizer("byte-level", R1)
    assert pieces(tokenizer) == ["a2</s>"]
    assert pieces(tokenizer, THINKING) == ["\n\na2</s>"]
    assert answer_context(TALK, tokenizer).endswith("q2<Assistant>")
    assert not prompt_is_kept(TALK, tokenizer)
    notes = encode_examples(WRITE, [TALK], tokenizer, 200).notes
    assert "writes 1 of 2 assistant turns otherwise" in notes[0]
    assert "generated here, without it" in notes[1]


def test_a_template_that_rewrites_all_turns_teaches_the_last(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
    assert pieces(tokenizer) == ["a2<eos>"]


def test_no_answer_in_the_text_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content if m.role == 'user' }}{% endfor %}<assistant>"
    with pytest.raises(DataError, match="does not write what the assistant says"):
        encode_examples(WRITE, [TALK], tokenizer, 200)


def test_a_template_without_an_end_is_said(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert "no end after an answer" in encode_examples(WRITE, [TALK], tokenizer, 200).notes[-1]


def test_no_template_and_a_template_that_raises(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(DataError, match="no system turns"):
        encode_examples(WRITE, [TALK], tokenizer, 200)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        encode_examples(WRITE, [TALK], tokenizer, 200)
    tokenizer.chat_template = {"rag": "", "tool_use": ""}
    with pytest.raises(DataError, match="rag, tool_use and no default"):
        encode_examples(WRITE, [TALK], tokenizer, 200)
