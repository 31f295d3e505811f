"""`generate`: one prompt or several, settings by name, and a prompt that ends in a space read as training reads it."""

from dataclasses import fields

import pytest
from transformers import AutoModelForCausalLM

import loralab as ll
from loralab.evaluation.answers import answers
from loralab.generation.config import GenerationConfig, GenerationSettings
from loralab.tasks.encoding.chat import asked
from loralab.tasks.example import Example
from tiny import byte_tokenizer, write_llama


@pytest.fixture
def model(tmp_path) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(write_llama(tmp_path)).eval()


def test_one_prompt_gives_a_text_and_several_a_list(model) -> None:
    one = ll.generate(model, byte_tokenizer(), "abc", max_new_tokens=5)
    assert isinstance(one, str)
    assert ll.generate(model, byte_tokenizer(), ["abc", "d"], max_new_tokens=5)[0] == one
    assert ll.generate(model, byte_tokenizer(), []) == []


def test_a_chat_is_the_template(model) -> None:
    config = GenerationConfig(max_new_tokens=5)
    wanted = answers(model, byte_tokenizer(), [asked("abc", as_in_training=False)], config)
    assert [ll.generate(model, byte_tokenizer(), "abc", config, chat=True)] == wanted
    assert wanted != [ll.generate(model, byte_tokenizer(), "abc", config)]


def test_a_prompt_that_ends_in_a_space_is_what_training_has_before_an_answer(model) -> None:
    config = GenerationConfig(max_new_tokens=5)
    assert ll.generate(model, byte_tokenizer(), ["abc "], config) == answers(
        model, byte_tokenizer(), [Example("abc ", "")], config
    )


def test_the_settings_are_those_of_the_configuration_and_another_is_refused(model) -> None:
    assert list(GenerationSettings.__annotations__) == [each.name for each in fields(GenerationConfig)]
    with pytest.raises(ll.SpecError, match=r"no setting max_length; there are: max_new_tokens, "):
        ll.generate(model, byte_tokenizer(), "a", max_length=3)
    with pytest.raises(ll.SpecError, match="a config and beams"):
        ll.generate(model, byte_tokenizer(), "a", GenerationConfig(), beams=3)
