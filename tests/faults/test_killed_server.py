"""A server that is killed while it answers, loads and unloads: no answer that came whole is wrong, no file is touched.

`loralab serve` runs in a forked child, so that it starts in a moment. Afterwards a new one answers as the first did.
"""

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
import torch

from faults.judging import SEED
from faults.killing import files_of
from loralab.cli.main import main
from serving.http.servers import ADMIN, write_place

AUTHORISED = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_place(tmp_path_factory.mktemp("killed"), "sql", "chat", "guest")


@contextmanager
def serving(place: Path) -> Iterator[tuple[str, int]]:
    """The address of a server in a child, and its process; it is killed at the latest at the end."""
    port = _free_port()
    child = os.fork()
    if child == 0:
        words = ["serve", "--model", place / "base", "--adapters", place / "adapters", "--port", port]
        try:
            main([*map(str, words), "--admin-token", ADMIN, "--dtype", "float32", "--device", "cpu"])
        finally:
            os._exit(1)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url)
        yield url, child
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


def _wait_until_ready(url: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")


def body(name: str, number: int) -> dict[str, object]:
    return {"model": name, "prompt": f"def number_{number}(x):", "max_tokens": 12, "temperature": 0}


def answers(url: str, names: tuple[str, ...]) -> dict[tuple[str, int], str]:
    """What each name says to each prompt, asked alone."""
    with httpx2.Client(base_url=url, timeout=60) as client:
        asked = {(name, n): client.post("/v1/completions", json=body(name, n)) for name in names for n in range(3)}
    return {key: str(answer.raise_for_status().json()["choices"][0]["text"]) for key, answer in asked.items()}


class Clients:
    """They ask, in whole and in streams, until their server is gone, and remember what came whole and was wrong."""

    def __init__(self, url: str, right: dict[tuple[str, int], str]) -> None:
        self.url, self.right = url, right
        self.whole, self.wrong = 0, list[str]()
        jobs = [self._ask, self._ask, self._stream, self._load_and_unload]
        self.threads = [threading.Thread(target=self._until_gone, args=(job,), daemon=True) for job in jobs]
        for thread in self.threads:
            thread.start()

    def wait_for(self, whole: int) -> None:
        """Until so many answers came whole."""
        until = time.monotonic() + 120
        while self.whole < whole and not self.wrong:
            assert time.monotonic() < until, "no answers come"
            time.sleep(0.001)

    def end(self) -> None:
        """Once the server is dead."""
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a client waits for a server that is dead"

    def _until_gone(self, job: object) -> None:
        assert callable(job)
        with httpx2.Client(base_url=self.url, timeout=60) as client, suppress(httpx2.HTTPError):
            for turn in range(10**6):
                job(client, *list(self.right)[turn % len(self.right)])

    def _judge(self, name: str, number: int, text: str) -> None:
        self.whole += 1
        if text != self.right[name, number]:
            self.wrong.append(f"{name}: {text!r}")

    def _ask(self, client: httpx2.Client, name: str, number: int) -> None:
        answer = client.post("/v1/completions", json=body(name, number))
        self._judge(name, number, str(answer.raise_for_status().json()["choices"][0]["text"]))

    def _stream(self, client: httpx2.Client, name: str, number: int) -> None:
        text, ended = "", False
        with client.stream("POST", "/v1/completions", json=body(name, number) | {"stream": True}) as answer:
            for line in answer.iter_lines():
                ended = ended or line == "data: [DONE]"
                if line.startswith("data: {"):
                    choices = json.loads(line.removeprefix("data: "))["choices"]
                    text += "".join(choice["text"] for choice in choices)
        assert ended, "a stream ended as if it were whole"
        self._judge(name, number, text)

    def _load_and_unload(self, client: httpx2.Client, name: str, number: int) -> None:
        for verb in ("load", "unload"):
            told = {"lora_name": "visitor", "lora_path": "guest"}
            client.post(f"/v1/{verb}_lora_adapter", json=told, headers=AUTHORISED).raise_for_status()


@pytest.mark.faults
def test_10_kills_of_a_server(place: Path) -> None:
    names = (str(place / "base"), "sql", "chat")
    chance, before = random.Random(f"{SEED} serve"), files_of(place)
    with serving(place) as (url, _):
        right = answers(url, names)
    assert len(set(right.values())) > 3, "the adapters say the same as the base"
    whole = 0
    for _ in range(10):
        with serving(place) as (url, process):
            clients = Clients(url, right)
            clients.wait_for(chance.randrange(12))
            time.sleep(chance.uniform(0, 0.1))
            os.kill(process, signal.SIGKILL)
            clients.end()
            assert not clients.wrong
            whole += clients.whole
        assert files_of(place) == before
    assert whole
    with serving(place) as (url, _):
        assert answers(url, names) == right
