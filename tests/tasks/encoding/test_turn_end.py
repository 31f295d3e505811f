import pytest
from transformers import PreTrainedTokenizerFast

from loralab.errors import DataError
from loralab.tasks.encoding.turn_end import TurnEnd, turn_end
from small_tokenizers import small_tokenizer

PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} "
    "</s>{% endif %}{% endfor %}"
)
SPEAKERS = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
PLAIN_MARK = "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n### End\n\n{% endfor %}"


@pytest.mark.parametrize("kind", ["llama-legacy", "byte-level", "word-piece"])
def test_one_token_that_is_not_the_end_of_text(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    found = turn_end(tokenizer)
    assert found == TurnEnd("<|im_end|>", tokenizer.convert_tokens_to_ids("<|im_end|>"), None)
    assert found.token != tokenizer.eos_token_id


@pytest.mark.parametrize(
    "template, written, token, text",
    [
        (PHI, "<|im_end|>", "<|im_end|>", None),
        (LLAMA_2, " </s>", "</s>", None),
        (PLAIN_MARK, "\n### End", None, "### End"),
        (SPEAKERS, "\n", None, "\nUSER:"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "", None, None),
    ],
)
def test_it_is_found_by_writing(template: str, written: str, token: str | None, text: str | None) -> None:
    tokenizer = small_tokenizer("metaspace-first", template)
    place = None if token is None else tokenizer.convert_tokens_to_ids(token)
    assert turn_end(tokenizer) == TurnEnd(written, place, text)


def test_runs_of_spaces_that_were_added_end_nothing() -> None:
    tokenizer = small_tokenizer("byte-level", "{% for m in messages %}{{ m.content }}\n\n</s>{% endfor %}")
    tokenizer.add_tokens(["\n\n"])
    assert turn_end(tokenizer).token == tokenizer.eos_token_id


def test_no_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        turn_end(tokenizer)
