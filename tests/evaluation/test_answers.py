"""What a model that has learned one conversation answers, and where it stops."""

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from loralab.evaluation.answers import answers
from loralab.generation.config import GenerationConfig
from loralab.tasks.encoding.chat import asked
from loralab.tasks.encoding.encode import encode_examples
from loralab.tasks.example import AnyExample, Conversation, Example, Message
from loralab.tasks.task import Task
from tiny import byte_tokenizer, write_llama

WRITE = Task("toy", "generation", {}, ())
TALK = Conversation((Message("user", "5 + 12"), Message("assistant", "it is 17")))
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
R1 = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)


def learned(folder: Path, tokenizer: PreTrainedTokenizerFast, example: AnyExample) -> PreTrainedModel:
    """A model that has learned one example by heart."""
    model = AutoModelForCausalLM.from_pretrained(write_llama(folder, vocab_size=260))
    (one,) = encode_examples(WRITE, [example], tokenizer, 200).encoded
    ids, labels = torch.tensor([one.input_ids]), torch.tensor([one.labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    return model.eval()


def with_end(one_token: bool, template: str) -> PreTrainedTokenizerFast:
    """Bytes, and <|im_end|> as one token that is not the end of text, or as ten."""
    tokenizer = byte_tokenizer()
    if one_token:
        tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [TEMPLATE, R1])
@pytest.mark.parametrize("one_token", [True, False])
def test_an_answer_stops_where_its_turn_ends(tmp_path: Path, one_token: bool, template: str) -> None:
    tokenizer = with_end(one_token, template)
    model = learned(tmp_path, tokenizer, TALK)
    settings = GenerationConfig(max_new_tokens=40)
    assert answers(model, tokenizer, [TALK], settings) == ["it is 17"]
    assert answers(model, tokenizer, [asked("5 + 12", as_in_training=True)], settings) == ["it is 17"]


def test_a_prompt_that_ends_in_a_space_is_answered_without_another(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(" yes", normalized=False)])
    model = learned(tmp_path, tokenizer, Example("is it? ", "yes"))
    settings = GenerationConfig(max_new_tokens=4)
    assert answers(model, tokenizer, [Example("is it? ", "")], settings) in (["yes"], [" yes"])
