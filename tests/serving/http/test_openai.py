"""OpenAI's own client, in all that it can ask for here."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from serving.http.servers import PROMPT, made, served, write_place
from tiny import byte_tokenizer

PARTS = [{"type": "text", "text": "hi"}]
MESSAGES: Any = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": PARTS}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    for url in served(made(write_place(tmp_path_factory.mktemp("openai"), "sql"))):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as made_client:
            yield made_client


def completed(client: openai.OpenAI, **more: Any) -> Any:
    return client.completions.create(**({"model": "sql", "prompt": PROMPT, "max_tokens": 6, "temperature": 0} | more))


def test_logprobs_of_completions_plain_and_streamed(client: openai.OpenAI) -> None:
    whole = completed(client, logprobs=2).choices[0].logprobs
    assert len(whole.tokens) == len(whole.token_logprobs) == len(whole.top_logprobs) == len(whole.text_offset) == 6
    assert whole.text_offset == [sum(map(len, whole.tokens[:place])) for place in range(6)]
    pieces = [event.choices[0].logprobs for event in completed(client, logprobs=2, stream=True)]
    told = [piece for piece in pieces if piece is not None]
    assert [token for piece in told for token in piece.tokens] == whole.tokens
    assert [offset for piece in told for offset in piece.text_offset] == whole.text_offset


def test_logprobs_of_chats_plain_and_streamed(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "sql", "messages": MESSAGES, "temperature": 0}
    asked |= {"logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked, max_completion_tokens=5).choices[0].logprobs
    assert [len(each.top_logprobs) for each in whole.content] == [3] * 5
    events = client.chat.completions.create(**asked, max_completion_tokens=5, stream=True)
    told = [each for event in events if event.choices[0].logprobs for each in event.choices[0].logprobs.content or ()]
    assert [each.logprob for each in told] == pytest.approx([each.logprob for each in whole.content], abs=1e-4)


def test_echo_begins_with_the_prompt(client: openai.OpenAI) -> None:
    plain, echoed = completed(client).choices[0].text, completed(client, echo=True).choices[0].text
    assert echoed == PROMPT + plain
    events = list(completed(client, echo=True, stream=True, n=2, seed=1))
    assert "".join(event.choices[0].text for event in events if event.choices[0].index == 1) == echoed


def test_what_has_no_effect_is_taken(client: openai.OpenAI) -> None:
    more = {"user": "u", "best_of": 1, "extra_body": {"metadata": {"a": "b"}, "suffix": None}}
    assert completed(client, **more).choices[0].text == completed(client).choices[0].text


def test_penalties_and_biases_change_the_answer(client: openai.OpenAI) -> None:
    plain = completed(client, max_tokens=24).choices[0].text
    assert completed(client, max_tokens=24, frequency_penalty=2, presence_penalty=2).choices[0].text != plain
    assert completed(client, max_tokens=3, logit_bias={"35": 100}).choices[0].text == 3 * byte_tokenizer().decode([35])


def test_five_stops_and_a_seed(client: openai.OpenAI) -> None:
    texts = [completed(client, temperature=1, seed=-3, stop=list("abcde")).choices[0].text for _ in range(2)]
    assert texts[0] == texts[1]
    assert not set(texts[0]) & set("abcde")


@pytest.mark.parametrize("more", [{"tools": TOOLS}, {"reasoning_effort": "low"}])
def test_what_would_change_an_answer_is_refused_by_name(client: openai.OpenAI, more: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match=next(iter(more))):
        client.chat.completions.create(model="sql", messages=MESSAGES, max_tokens=2, **more)
