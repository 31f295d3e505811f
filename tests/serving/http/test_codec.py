"""What an adapter was trained with is what its requests go through: its tokenizer, its template, its ends."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from transformers import AutoTokenizer

from serving.http.servers import made, served, write_place
from tiny import byte_tokenizer

SHOUTING = "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}<eos>\n{% endfor %}<assistant>"
STRICT = "{{ raise_exception('roles must alternate') }}"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_place(tmp_path_factory.mktemp("codec"), "plain", "shouts", "settings", "strict", "moved", "added")
    adapters = root / "adapters"
    (adapters / "shouts" / "chat_template.jinja").write_text(SHOUTING)
    (adapters / "settings" / "tokenizer_config.json").write_text(json.dumps({"chat_template": SHOUTING}))
    (adapters / "strict" / "chat_template.jinja").write_text(STRICT)
    moved = byte_tokenizer()
    content = json.loads(moved.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    moved.save_pretrained(adapters / "moved")
    (adapters / "moved" / "tokenizer.json").write_text(json.dumps(content))
    added = byte_tokenizer()
    added.add_tokens(["<tool>"])
    added.save_pretrained(adapters / "added")
    return root


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[httpx2.Client]:
    for url in served(made(place)):
        with httpx2.Client(base_url=url, timeout=120) as made_client:
            yield made_client


def chat(client: httpx2.Client, model: str, messages: list[dict[str, str]] = MESSAGES) -> httpx2.Response:
    body = {"model": model, "messages": messages, "max_tokens": 3, "temperature": 0}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("name", ["shouts", "settings"])
def test_the_template_beside_an_adapter_is_its_own(client: httpx2.Client, place: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place / "base")
    loud = tokenizer.apply_chat_template(MESSAGES, chat_template=SHOUTING, tokenize=False)
    prompt = {"model": name, "prompt": loud, "max_tokens": 3, "temperature": 0}
    wanted = client.post("/v1/completions", json=prompt).json()
    found = chat(client, name).json()
    assert found["usage"] == wanted["usage"]
    assert found["choices"][0]["message"]["content"] == wanted["choices"][0]["text"]
    assert chat(client, "plain").json()["usage"] == chat(client, "base").json()["usage"] != found["usage"]


def test_a_template_that_refuses_is_a_bad_request(client: httpx2.Client) -> None:
    answer = chat(client, "strict")
    assert (answer.status_code, "roles must alternate" in answer.text) == (400, True), answer.text


@pytest.mark.parametrize("name, said", [("moved", "other ids"), ("added", "does not embed")])
def test_a_tokenizer_that_reads_otherwise_is_refused(client: httpx2.Client, place: Path, name: str, said: str) -> None:
    answer = chat(client, name)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text
    assert str(place) not in answer.text


def test_a_template_that_changes_is_a_new_version(client: httpx2.Client, place: Path) -> None:
    before = chat(client, "plain").json()["usage"]
    template = place / "adapters" / "plain" / "chat_template.jinja"
    template.write_text("<longer than before>" + SHOUTING)
    after = chat(client, "plain").json()["usage"]
    template.unlink()
    assert after["prompt_tokens"] > before["prompt_tokens"]


def test_a_conversation_ends_where_its_template_ends_a_turn(place: Path) -> None:
    """Where that is a text: it is not told, and nothing after it is written."""
    server = made(place)
    ends = "{% for m in messages %}{{ m.content }}|END|{% endfor %}"
    server.codec.tokenizer.chat_template = ends
    assert server.codec.turn.texts == ("|END|",)
    server.close()
