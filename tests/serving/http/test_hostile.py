"""Whatever is sent: an answer in OpenAI's form, no traceback, no path, and a server that serves on."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loralab.serving.engine.engine import EngineConfig
from loralab.serving.http.gate import LARGEST_BODY, LOOPBACK
from loralab.serving.http.server import Server
from serving.http.servers import ADMIN, made, served, write_place

JSON = {"Content-Type": "application/json"}
PLAIN = {"model": "sql", "prompt": "x", "max_tokens": 2}
ROUTES = ("completions", "chat/completions", "classify", "load_lora_adapter", "unload_lora_adapter")
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("a-secret-path"), "sql", "spare")


@pytest.fixture(scope="module")
def server(place: Path) -> Server:
    return made(place, admin_token=ADMIN, hosts=LOOPBACK, body_seconds=1.0, engine=EngineConfig(rows=2, length=128))


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    yield from served(server)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=120) as made_client:
        yield made_client


def serves_on(client: httpx2.Client) -> bool:
    answer = client.post("/v1/completions", json=PLAIN | {"temperature": 0})
    return answer.status_code == 200 and client.get("/health").status_code == 200


def check(answer: httpx2.Response, *statuses: int) -> str:
    """The sentence of a refusal."""
    assert answer.status_code in statuses, answer.text
    said: str = answer.json()["error"]["message"]
    assert said
    for secret in ("Traceback", "a-secret-path", "site-packages", ".py"):
        assert secret not in answer.text
    assert len(said) < 1000
    return said


def posted(client: httpx2.Client, body: bytes, route: str = "completions", **headers: str) -> httpx2.Response:
    return client.post(f"/v1/{route}", content=body, headers=JSON | {"Authorization": f"Bearer {ADMIN}"} | headers)


BODIES = {
    "no JSON": b"{",
    "nothing": b"",
    "no object": b"[]",
    "a number": b"1",
    "NaN": b'{"model": "sql", "prompt": "x", "temperature": NaN}',
    "infinite": b'{"model": "sql", "prompt": "x", "temperature": 1e999}',
    "a number of 5,000 digits": b'{"model": "sql", "prompt": "x", "seed": ' + b"9" * 5000 + b"}",
    "deep": b'{"model": "sql", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a name twice": b'{"model": "sql", "model": "base", "prompt": "x"}',
    "not UTF-8": b'{"model": "sql", "prompt": "\xff\xfe"}',
    "UTF-16": '{"model": "sql", "prompt": "x"}'.encode("utf-16"),
    "half a surrogate pair": b'{"model": "sql", "prompt": "\\ud800"}',
    "half a pair as a name": b'{"model": "sql", "prompt": "x", "\\udfff": 1}',
    "a long unknown name": b'{"model": "sql", "prompt": "x", "' + b"n" * 100_000 + b'": 1}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_none(client: httpx2.Client, body: bytes) -> None:
    check(posted(client, body), 400)
    assert serves_on(client)


REFUSED: list[dict[str, Any]] = [
    {"seed": 2**64},
    {"seed": -(2**64)},
    {"seed": 1.5},
    {"max_tokens": 10**30},
    {"n": 17},
    {"top_k": 10**30},
    {"top_p": 0},
    {"temperature": 1e-30},
    {"stop": ["a"] * 17},
    {"stop": ""},
    {"stop": [1]},
    {"stop": "x" * 2000},
    {"logit_bias": {"5": 1e300}},
    {"logit_bias": {"-1": 1}},
    {"logit_bias": {"9" * 5000: 1}},
    {"logit_bias": {"258": 1}},
    {"logit_bias": {"²": 1}},
    {"prompt": [258]},
    {"prompt": [-1]},
    {"prompt": [[1], []]},
    {"prompt": [True]},
    {"prompt": ["x", 5]},
    {"prompt": ["x"] * 2000},
    {"prompt": ["x"] * 1000},
    {"stream_options": {"include_usage": True}},
    {"best_of": 3},
    {"suffix": "x"},
    {"tools": []},
    {"model": "x" * 1000},
    {"model": "sql\x00"},
    {"model": "../sql"},
    {"presence_penalty": 3},
]


@pytest.mark.parametrize("change", REFUSED, ids=lambda each: str(each)[:40])
def test_values_that_cannot_be(client: httpx2.Client, change: dict[str, Any]) -> None:
    said = check(client.post("/v1/completions", json=PLAIN | change), 400, 404)
    assert next(iter(change)) in said or "adapter" in said or "tokens" in said or "answers" in said, said


CHATS: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": [{}]},
    {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    {"response_format": {"type": "json_object"}},
    {"tools": [{"type": "function"}]},
    {"top_logprobs": 2},
]


@pytest.mark.parametrize("change", CHATS, ids=lambda each: str(each)[:40])
def test_conversations_that_cannot_be(client: httpx2.Client, change: dict[str, Any]) -> None:
    body = {"model": "sql", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    assert next(iter(change)) in check(client.post("/v1/chat/completions", json=body | change), 400)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["sql", "base"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = (
    "model prompt messages max_tokens n stop seed temperature top_p top_k logprobs echo stream stream_options input",
    "logit_bias presence_penalty user metadata lora_name lora_path top_logprobs response_format role content",
)
FIELDS = st.sampled_from(" ".join(NAMES).split())
SOUND = st.sampled_from([PLAIN, {"model": "sql", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}])


@QUICK
@given(route=st.sampled_from(ROUTES), sound=SOUND, change=st.dictionaries(FIELDS, ANY, max_size=3))
def test_any_body_is_answered(client: httpx2.Client, route: str, sound: dict[str, Any], change: dict[str, Any]) -> None:
    answer = posted(client, json.dumps(sound | change).encode(), route)
    if answer.status_code != 200:
        check(answer, 400, 404)


@QUICK
@given(route=st.sampled_from(ROUTES), body=st.binary(max_size=60))
def test_any_bytes_are_answered(client: httpx2.Client, route: str, body: bytes) -> None:
    check(posted(client, body, route), 400)


def test_a_thousand_bad_requests_leave_it_serving(client: httpx2.Client) -> None:
    for number in range(1000):
        posted(client, list(BODIES.values())[number % 4], ROUTES[number % len(ROUTES)])
    assert serves_on(client)


def test_what_is_no_json_is_not_read(client: httpx2.Client) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        check(client.post("/v1/completions", content=json.dumps(PLAIN), headers={"Content-Type": media}), 415)


def test_routes_that_are_none_are_told_in_the_same_form(client: httpx2.Client) -> None:
    check(client.get("/v1/nothing"), 404)
    by_get = client.get("/v1/completions")
    check(by_get, 405)
    assert by_get.headers["allow"] == "POST"
    check(client.get("/page.js/../../app.py"), 404)
    check(client.get("/v1/adapters/..%2f..%2fbase/effect"), 404)


# -- at the socket -------------------------------------------------------------------------------------------------


def line_to(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)


def head(*more: str) -> bytes:
    return "\r\n".join(["POST /v1/completions HTTP/1.1", "Host: 127.0.0.1", *more, "", ""]).encode()


def test_a_body_in_chunks_is_read_up_to_the_same_size(client: httpx2.Client) -> None:
    whole = json.dumps(PLAIN).encode()
    assert client.post("/v1/completions", content=iter([whole[:5], whole[5:]]), headers=JSON).status_code == 200

    def endless() -> Iterator[bytes]:
        for _ in range(3 * LARGEST_BODY // 2**16):
            yield b" " * 2**16

    with suppress(httpx2.TransportError):  # it may hang up before all of it was sent
        check(client.post("/v1/completions", content=endless(), headers=JSON), 413)
    assert serves_on(client)


def test_a_body_that_does_not_come_is_not_waited_for(url: str, client: httpx2.Client) -> None:
    with line_to(url) as line:
        line.sendall(head("Content-Type: application/json", "Content-Length: 100") + b'{"mod')
        assert b" 408 " in line.recv(4096)
    assert serves_on(client)


@pytest.mark.parametrize("length", ["-1", "x", "1" * 100])
def test_lengths_that_are_none(url: str, client: httpx2.Client, length: str) -> None:
    with line_to(url) as line:
        line.sendall(head(f"Content-Length: {length}"))
        assert line.recv(4096).split()[1] in (b"400", b"413")
    assert serves_on(client)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["x", "y" * 100])
def test_who_hangs_up_frees_its_row(url: str, server: Server, client: httpx2.Client, stream: bool, prompt: str) -> None:
    """Of six two are written, and four wait."""
    body = json.dumps(PLAIN | {"prompt": prompt, "max_tokens": 127 - len(prompt), "stream": stream}).encode()
    lines = [line_to(url) for _ in range(6)]
    for line in lines:
        line.sendall(head("Content-Type: application/json", f"Content-Length: {len(body)}") + body)
    time.sleep(0.05)
    for line in lines:
        line.close()
    deadline = time.monotonic() + 60
    while (server.waiting or not server.service.engine.is_idle) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.service.engine.is_idle
    assert server.waiting == 0
    assert serves_on(client)


# -- who asks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[", "localhost@e"]
)
def test_other_names_are_not_answered_to(client: httpx2.Client, host: str) -> None:
    """A name that was led to this machine (DNS rebinding)."""
    for path in ("/", "/v1/models", "/metrics"):
        check(client.get(path, headers={"Host": host}), 403)
    assert "--hosts" in check(posted(client, json.dumps(PLAIN).encode(), Host="evil.example"), 403)
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "http://127.0.0.1.evil.example"]
)
def test_other_pages_may_not_ask(client: httpx2.Client, origin: str) -> None:
    body = json.dumps({"lora_name": "x", "lora_path": "sql"}).encode()
    check(posted(client, body, "load_lora_adapter", Origin=origin), 403)
    check(posted(client, json.dumps(PLAIN).encode(), Origin=origin), 403)
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = client.options("/v1/completions", headers=asked)
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_its_own_page_may(url: str, client: httpx2.Client) -> None:
    assert posted(client, json.dumps(PLAIN).encode(), Origin=url).status_code == 200


def test_keys_of_any_bytes_are_compared(place: Path) -> None:
    for url in served(made(place, api_key="schlüssel", hosts=None)):
        with httpx2.Client(base_url=url, timeout=60) as plain:
            for key in (b"wrong", b"\xff\xfe", b"schl\xfcssel"):
                answer = plain.get("/v1/adapters", headers={"Authorization": b"Bearer " + key})
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            right = {"Authorization": b"Bearer " + "schlüssel".encode()}
            assert plain.get("/v1/adapters", headers=right).status_code == 200
            assert plain.get("/v1/models", headers={"Host": "any.name"} | right).status_code == 200  # type: ignore[operator]
