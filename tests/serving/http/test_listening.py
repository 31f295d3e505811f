"""From the moment that it is started: alive at once, ready when its model is, and an error where that cannot be."""

import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

from loralab.errors import OutputError, SpecError
from loralab.serving.http import listening
from loralab.serving.http.server import Server
from serving.http.servers import made, write_place


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_parts_of_an_answer_do_not_wait_for_each_other() -> None:
    with (
        listening.listening_on("127.0.0.1", 0) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_it_is_alive_before_it_is_ready(tmp_path: Path) -> None:
    place, port = write_place(tmp_path, "sql"), free_port()
    may_load, found, told = threading.Event(), dict[str, Any](), threading.Event()
    url = f"http://127.0.0.1:{port}"

    def ask() -> None:
        try:
            with httpx2.Client(transport=httpx2.HTTPTransport(retries=50), base_url=url, timeout=60) as client:
                found["alive"] = client.get("/health").status_code
                found["ready"] = client.get("/ready").status_code
                early = client.get("/v1/models")
                found["early"] = early.status_code, early.headers["Retry-After"], early.json()["error"]["type"]
                may_load.set()
                told.wait(120)
                found["later"] = client.get("/ready").status_code, client.get("/v1/models").status_code
        finally:
            may_load.set()
            told.wait(120)
            found["server"].close()
            running[0].should_exit = True

    def make() -> Server:
        may_load.wait(120)
        found["server"] = made(place)
        return found["server"]  # type: ignore[no-any-return]

    running: list[Any] = []

    class Noted(listening.uvicorn.Server):  # type: ignore[misc,name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            running.append(self)

    before, listening.uvicorn.Server = listening.uvicorn.Server, Noted  # type: ignore[misc]
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        listening.listen(make, "127.0.0.1", port, "error", lambda port, server: told.set())
    finally:
        listening.uvicorn.Server = before  # type: ignore[misc]
        asking.join(60)
    assert (found["alive"], found["ready"]) == (200, 503)
    assert found["early"] == (503, "1", "server_error")
    assert found["later"] == (200, 200)


def test_what_cannot_be_loaded_ends_it() -> None:
    def make() -> Server:
        raise SpecError("no such model")

    with pytest.raises(SpecError, match="no such model"):
        listening.listen(make, "127.0.0.1", 0, "error", lambda port, server: None)


def test_a_port_that_is_taken_is_said_before_anything_is_loaded() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OutputError, match="choose another --port"),
    ):
        listening.listen(lambda: pytest.fail("loaded"), "127.0.0.1", taken.getsockname()[1], "error", lambda *_: None)
