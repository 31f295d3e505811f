from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from loralab.errors import DataError, SpecError
from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.encode import Encoding, encode_examples, encode_prompts
from loralab.tasks.example import AnyExample, Conversation, Document, Example, LabelledExample, Message
from loralab.tasks.task import Task
from small_tokenizers import KINDS, small_tokenizer

WRITE = Task("toy", "generation", {}, ())
LABEL = Task("toy", "classification", {}, (), ("a", "b"))
TALK = Conversation(tuple(Message(r, c) for r, c in (("user", "hi"), ("assistant", "yo"))))


def encode(tokenizer, *examples: AnyExample, task: Task = WRITE, longest: int = 64, **more) -> Encoding:
    return encode_examples(task, examples, tokenizer, longest, **more)


def test_the_target_and_its_end_are_marked(tokenizer: PreTrainedTokenizerFast) -> None:
    (one,) = encode(tokenizer, Example("ab", " cd")).encoded
    assert tokenizer.decode(one.input_ids) == "ab cd<eos>"
    assert tokenizer.decode([label for label in one.labels if label != IGNORED]) == " cd<eos>"
    assert (one.targets, one.tokens) == (4, 6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.text(max_size=40), st.text(min_size=1, max_size=8))
def test_prompts_are_the_same_in_training_and_generation(tokenizer, prompt: str, target: str) -> None:
    example = Example(prompt, target)
    (one,) = encode(tokenizer, example, longest=400).encoded
    (ids,) = encode_prompts([example], tokenizer, 400)
    assert one.input_ids[: len(ids)] == ids
    assert one.labels == [IGNORED] * len(ids) + one.input_ids[len(ids) :]


def test_what_is_cut_is_counted_and_said(tokenizer: PreTrainedTokenizerFast) -> None:
    found = encode(tokenizer, Example("x" * 50, " cd"), Example("a", " b"), Example("a", "y" * 50), longest=16)
    assert found.truncated == 2
    assert "2 of 3 examples were longer than 16 tokens" in found.notes[0]
    assert found.lengths == [16, 4, 16]
    assert tokenizer.decode(found.encoded[0].input_ids).endswith("x cd<eos>")


def test_conversations(tokenizer: PreTrainedTokenizerFast) -> None:
    (one,) = encode(tokenizer, TALK).encoded
    assert tokenizer.decode([label for label in one.labels if label != IGNORED]) == "yo<eos>"
    (ids,) = encode_prompts([TALK], tokenizer, 64)
    assert one.input_ids[: len(ids)] == ids
    assert tokenizer.decode(one.input_ids[len(ids) + one.targets :]) == "\n"  # as the template writes it


def test_an_encoder_decoder_has_its_targets_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    (one,) = encode(tokenizer, Example("ab", " cd"), encoder_decoder=True).encoded
    assert tokenizer.decode(one.input_ids) == "ab"
    assert tokenizer.decode(one.labels) == "cd<eos>"
    assert one.tokens == 5


def test_pairs_as_the_tokenizer_joins_them(minilm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    pair = LabelledExample("one two", "three", 1)
    (one,) = encode(tokenizer, pair, task=LABEL).encoded
    assert tokenizer.decode(one.input_ids) == "[CLS] one two [SEP] three [SEP]"
    assert one.token_type_ids == [0, 0, 0, 0, 1, 1]
    assert (one.labels, one.targets) == (1, 1)


def test_long_pairs_lose_the_longer_text(minilm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    found = encode(tokenizer, LabelledExample("one " * 600, "two", 0), task=LABEL, longest=8)
    assert tokenizer.decode(found.encoded[0].input_ids) == "[CLS] one one one one [SEP] two [SEP]"
    assert found.truncated == 1


def test_what_cannot_be_encoded(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(SpecError, match="max_length 7"):
        encode(tokenizer, Example("a", "b"), longest=7)
    with pytest.raises(DataError, match="the data hold conversations"):
        encode(tokenizer, TALK, encoder_decoder=True)
    with pytest.raises(DataError, match="the data hold raw text; give such rows"):
        encode(tokenizer, Document("a b c"), encoder_decoder=True)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end-of-text token"):
        encode(tokenizer, Example("a", "b"))


@pytest.mark.parametrize(
    "example", [LabelledExample("", None, 1), LabelledExample("", "", 1), LabelledExample("", "b", 1)]
)
def test_a_blank_text_is_never_without_a_token(tokenizer: PreTrainedTokenizerFast, example: LabelledExample) -> None:
    found = encode(tokenizer, example, LabelledExample("ab", None, 0), task=LABEL)
    blank = not example.text_b
    assert found.encoded[0].input_ids == ([tokenizer.eos_token_id] if blank else tokenizer("b")["input_ids"])
    assert [note for note in found.notes if "1 of 2 texts are without a token" in note] == list(
        found.notes[:1] if blank else ()
    )


def test_a_blank_prompt_for_an_encoder(tokenizer: PreTrainedTokenizerFast) -> None:
    (one,) = encode(tokenizer, Example("", "b"), encoder_decoder=True).encoded
    assert [one.input_ids] == encode_prompts([Example("", "b")], tokenizer, 8, encoder_decoder=True)
    assert one.input_ids == [tokenizer.eos_token_id]


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_is_what_its_template_gives(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    said = ("user", "hi "), ("assistant", "it is 17"), ("user", "and\n 5?"), ("assistant", "yes, hello ")
    (one,) = encode(tokenizer, Conversation(tuple(Message(*turn) for turn in said)), longest=400).encoded
    turns = [{"role": role, "content": content} for role, content in said]
    assert one.input_ids == tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    learned = [place for place, label in enumerate(one.labels) if label != IGNORED]
    text = tokenizer.decode([one.input_ids[place] for place in learned])
    assert "".join(text.split()) == "itis17<|im_end|>yes,hello<|im_end|>"
    assert [one.labels[place] for place in learned].count(end) == 2
    ids = encode_prompts([Conversation(tuple(Message(*turn) for turn in said))], tokenizer, 400)[0]
    assert one.input_ids[: len(ids)] == ids
    assert one.labels[len(ids) - 1] == IGNORED != one.labels[len(ids)]


def test_a_template_that_marks_answers_is_taken_at_its_word(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}{% generation %}"
        "{{ m.content }}<eos>{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = encode(tokenizer, Conversation((*TALK.messages, *TALK.messages)))
    (one,) = found.encoded
    assert tokenizer.decode([label for label in one.labels if label != IGNORED]) == "yo<eos>"
    turns = [{"role": each.role, "content": each.content} for each in (*TALK.messages, *TALK.messages)]
    theirs = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    assert [int(label != IGNORED) for label in one.labels] == theirs["assistant_masks"]
    assert "{% generation %}" in found.notes[0]


def test_an_encoder_decoders_answer_has_its_tokenizers_own_tokens_around_it() -> None:
    tokenizer = small_tokenizer("byte-level")
    around = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = around  # BART's way
    (one,) = encode(tokenizer, Example("hello", " yes"), encoder_decoder=True).encoded
    assert tokenizer.decode(one.labels) == "<s>yes</s>"


def test_a_token_of_prompt_and_answer_is_said() -> None:
    found = encode(small_tokenizer("byte-level"), Example("hel", "lo"), Example("hello", " world"))
    assert "in 1 of 2 examples a token spans the end of the prompt" in found.notes[0]
