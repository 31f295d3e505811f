"""A server on a port, from the moment that it is started until it is told to stop.

It listens before its model is loaded, and says so: `/health` is answered at once, `/ready` when the model has been
loaded and tried, and all else is told to come again.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import uvicorn
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from loralab.errors import OutputError
from loralab.machine import collect_only_what_comes, let_threads_go
from loralab.serving.http.app import make_app
from loralab.serving.http.refusing import RETRY_SECONDS, error
from loralab.serving.http.server import Server

BACKLOG = 2048
GRACE = 600
"""Seconds for what has been begun, after which it is cut short."""
LOADING = "the model is being loaded; ask again in a moment"


class Entrance:
    """The application before and after its server is there."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._app: ASGIApp | None = None

    def open(self, server: Server) -> None:
        """From now on it is the server's."""
        self._app, self._server = make_app(server), server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _meanwhile(scope["path"])(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._server is not None:
            await asyncio.to_thread(self._server.close)
        await send({"type": "lifespan.shutdown.complete"})


def _meanwhile(path: str) -> Response:
    if path == "/health":
        return Response(status_code=200)
    return JSONResponse(error(503, LOADING), 503, {"Retry-After": RETRY_SECONDS})


def listen(
    make: Callable[[], Server], host: str, port: int, log_level: str, ready: Callable[[int, Server], None]
) -> None:
    """Serve what `make` makes until Ctrl-C or SIGTERM; what has been begun is finished. `ready` is told the port and
    the server once requests are answered.

    Raises OutputError where the port cannot be had, before anything is made, and what `make` raises.
    """
    with listening_on(host, port) as listening, ThreadPoolExecutor(1, "loralab model") as loader:
        entrance = Entrance()
        running = uvicorn.Server(uvicorn.Config(entrance, log_level=log_level, timeout_graceful_shutdown=GRACE))

        def load() -> None:
            server = make()
            let_threads_go()
            collect_only_what_comes()
            entrance.open(server)
            ready(int(listening.getsockname()[1]), server)

        def loaded(done: "Future[None]") -> None:
            running.should_exit |= done.exception() is not None

        loading = loader.submit(load)
        loading.add_done_callback(loaded)
        running.run([listening])
    loading.result()


def listening_on(host: str, port: int) -> socket.socket:
    """A socket whose connections send at once: an answer is written in parts, and each would wait for the client's word
    that it has the one before, 40 ms. asyncio sees to that for sockets that it makes itself alone.

    Raises OutputError where the port cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OutputError(
            f"port {port} of {host} cannot be listened on: {error.strerror}; choose another --port"
        ) from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
