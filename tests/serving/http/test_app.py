"""The server as its clients see it: a real one on a port, asked by the official client and by plain HTTP."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import loralab as ll
from loralab.serving.engine.engine import EngineConfig
from loralab.serving.http.server import Server
from serving.causal import plainly
from serving.http.servers import ADMIN, PROMPT, made, served, write_place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("served"), "sql", "chat", "spare")


@pytest.fixture(scope="module")
def server(place: Path) -> Server:
    return made(place, admin_token=ADMIN)


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    yield from served(server)


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def plain(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def expected(place: Path) -> dict[str, str]:
    """What each of the three writes after the prompt."""
    model = AutoModelForCausalLM.from_pretrained(place / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "base")
    for name in ("sql", "chat"):
        ll.load(model, place / "adapters" / name, name)
    prompt = tokenizer(PROMPT)["input_ids"]
    written = {name: plainly(model, prompt, None if name == "base" else name, 8) for name in ("base", "sql", "chat")}
    return {name: tokenizer.decode(ids, skip_special_tokens=True) for name, ids in written.items()}


def completed(client: openai.OpenAI, model: str, **more: Any) -> Any:
    return client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0, **more)


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()][:2] == ["base", "chat"]


@pytest.mark.parametrize("name", ["base", "sql", "chat"])
def test_each_name_answers_as_its_adapter(client: openai.OpenAI, expected: dict[str, str], name: str) -> None:
    answer = completed(client, name)
    assert (answer.choices[0].text, answer.model) == (expected[name], name)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 8)
    assert len(set(expected.values())) == 3


def test_a_stream_is_the_same_text(client: openai.OpenAI, expected: dict[str, str]) -> None:
    stream = completed(client, "sql", stream=True, stream_options={"include_usage": True})
    events = list(stream)
    assert "".join(event.choices[0].text for event in events if event.choices) == expected["sql"]
    assert events[-2].choices[0].finish_reason == "length"
    assert events[-1].usage.completion_tokens == 8


def test_many_at_once_are_answered_each_by_its_own(client: openai.OpenAI, expected: dict[str, str]) -> None:
    found: list[tuple[str, str]] = []

    def ask(name: str) -> None:
        found.append((name, completed(client, name).choices[0].text))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("base", "sql", "chat") * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted((name, expected[name]) for name in ("base", "sql", "chat") * 5)


def test_a_chat_goes_through_the_template(client: openai.OpenAI, server: Server) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    answer = client.chat.completions.create(model="chat", messages=messages, max_tokens=5, temperature=0)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(server.codec.chat_ids(messages))
    stream = client.chat.completions.create(
        model="chat", messages=messages, max_tokens=5, temperature=0, stream=True, logprobs=True, top_logprobs=2
    )
    events = list(stream)
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(event.choices[0].delta.content or "" for event in events) == answer.choices[0].message.content
    assert sum(len(e.choices[0].logprobs.content or []) for e in events if e.choices[0].logprobs) == 5


def test_n_answers_are_drawn_by_seeds_of_their_own(client: openai.OpenAI) -> None:
    def texts(**more: Any) -> list[str]:
        answer = client.completions.create(model="sql", prompt=PROMPT, max_tokens=12, temperature=2.0, **more)
        return [choice.text for choice in answer.choices]

    first = texts(n=3, seed=5)
    assert len(set(first)) == 3
    assert texts(n=3, seed=5) == first
    assert texts(n=1, seed=6) == first[1:2]


def test_stop_ends_before_its_text(client: openai.OpenAI, expected: dict[str, str]) -> None:
    stop = expected["sql"][3:5]
    answer = completed(client, "sql", stop=[stop, "never"])
    assert answer.choices[0].text == expected["sql"].partition(stop)[0]
    assert answer.choices[0].finish_reason == "stop"


def test_prompts_may_be_several_and_token_ids(client: openai.OpenAI, server: Server, expected: dict[str, str]) -> None:
    ids = list(server.codec.prompt_ids(PROMPT))
    for prompt in ([PROMPT, PROMPT], [ids, ids]):
        answer = client.completions.create(model="sql", prompt=prompt, max_tokens=8, temperature=0)  # type: ignore[arg-type]
        assert [choice.text for choice in answer.choices] == [expected["sql"]] * 2


@pytest.mark.parametrize(
    "change, status, said",
    [
        ({"model": "nobody"}, 404, "no adapter is called 'nobody'"),
        ({"model": "../base"}, 404, "no adapter is called"),
        ({"prompt": "x" * 300}, 400, "300 tokens of prompt"),
        ({"prompt": ""}, 400, "no tokens"),
        ({"prompt": [5, 10**6]}, 400, "no token id"),
        ({"prompt": []}, 400, "empty"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"n": 10**9}, 400, "n:"),
        ({"logit_bias": {"a": 1}}, 400, "logit_bias"),
        ({"guided_json": {}}, 400, "guided_json"),
        ({"echo": True, "logprobs": 1}, 400, "echo"),
        ({"model": None}, 400, "model"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(
    plain: httpx2.Client, change: dict[str, Any], status: int, said: str
) -> None:
    answer = plain.post("/v1/completions", json={"model": "sql", "prompt": PROMPT, "max_tokens": 2} | change)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text
    assert "Traceback" not in answer.text
    assert "/" not in answer.json()["error"]["message"].replace("v1/completions", "").replace("../base", "")


def test_a_body_that_is_no_json_is_refused(plain: httpx2.Client) -> None:
    answer = plain.post("/v1/completions", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_a_body_that_is_too_large_is_refused(plain: httpx2.Client) -> None:
    answer = plain.post("/v1/completions", content=b" " * (5 * 2**20), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_adapters_come_and_go(plain: httpx2.Client, client: openai.OpenAI) -> None:
    key = {"Authorization": f"Bearer {ADMIN}"}
    body = {"lora_name": "fresh", "lora_path": "spare"}
    assert plain.post("/v1/load_lora_adapter", json=body).status_code == 401
    assert plain.post("/v1/load_lora_adapter", json=body, headers={"Authorization": "Bearer no"}).status_code == 401
    assert plain.post("/v1/load_lora_adapter", json=body, headers=key).status_code == 200
    assert completed(client, "fresh").choices[0].text == completed(client, "spare").choices[0].text
    assert plain.post("/v1/unload_lora_adapter", json={"lora_name": "fresh"}, headers=key).status_code == 200
    with pytest.raises(openai.NotFoundError):
        completed(client, "fresh")
    assert plain.post("/v1/unload_lora_adapter", json={"lora_name": "fresh"}, headers=key).status_code == 404
    missing = plain.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "missing"}, headers=key)
    assert missing.status_code == 404
    outside = plain.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "../base"}, headers=key)
    assert (outside.status_code, "outside" in outside.text) == (400, True)


def test_a_client_that_hangs_up_frees_its_row(url: str, server: Server) -> None:
    body = json.dumps({"model": "sql", "prompt": "x", "max_tokens": 120, "temperature": 2.0}).encode()
    headers = ["Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    head = "\r\n".join(["POST /v1/completions HTTP/1.1", *headers, "", ""])
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    for _ in range(4):
        with socket.create_connection(address) as line:
            line.sendall(head.encode() + body)
            time.sleep(0.05)
    deadline = time.monotonic() + 20
    while not server.service.engine.is_idle and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.service.engine.is_idle
    new = server.counts.new_tokens["sql"]
    time.sleep(0.2)
    assert server.counts.new_tokens["sql"] == new


def test_what_was_read_before_is_told(plain: httpx2.Client) -> None:
    """The whole prompt the second time, but for the tokens that are always read."""
    prompt = [5 + place % 30 for place in range(70)]
    usages = [
        plain.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 3, "seed": 1}).json()
        for model in ("sql", "sql", "chat")
    ]
    assert [each["usage"]["prompt_tokens_details"]["cached_tokens"] for each in usages] == [0, 64, 0]
    assert usages[0]["choices"] == usages[1]["choices"]
    assert "loralab_prefix_tokens_reused" in plain.get("/metrics").text


def test_counts_are_told(plain: httpx2.Client, client: openai.OpenAI) -> None:
    completed(client, "sql")
    page = plain.get("/metrics").text
    assert 'loralab_requests_total{model="sql"}' in page
    assert "loralab_time_to_first_token_seconds_count" in page
    assert plain.get("/health").status_code == 200


def test_a_key_is_asked_for(place: Path) -> None:
    for url in served(made(place, api_key="k")):
        with httpx2.Client(base_url=url) as plain:
            assert plain.get("/health").status_code == 200
            assert plain.get("/v1/models").status_code == 401
            assert plain.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
            assert plain.get("/v1/models", headers={"Authorization": "Bearer k"}).status_code == 200
            load = plain.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "sql"})
            assert (load.status_code, "--admin-token" in load.text) == (403, True)


def test_too_many_are_told_to_come_again(place: Path) -> None:
    for url in served(made(place, waiting=1, engine=EngineConfig(rows=1, length=256))):
        found: list[tuple[int, str | None]] = []

        def ask(url: str = url, found: list[tuple[int, str | None]] = found) -> None:
            body = {"model": "sql", "prompt": PROMPT, "max_tokens": 200}
            answer = httpx2.post(f"{url}/v1/completions", json=body, timeout=60)
            found.append((answer.status_code, answer.headers.get("Retry-After")))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        assert (429, "1") in found
        assert any(status == 200 for status, _ in found)


def test_a_request_that_takes_too_long_is_ended(place: Path) -> None:
    for url in served(made(place, seconds=0.01, engine=EngineConfig(rows=1, length=256))):
        answer = httpx2.post(
            f"{url}/v1/completions", json={"model": "sql", "prompt": PROMPT, "max_tokens": 200}, timeout=60
        )
        assert (answer.status_code, "longer" in answer.text) == (504, True)
