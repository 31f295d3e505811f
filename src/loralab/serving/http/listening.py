"""A server on a port, until it is told to stop."""

import socket
from collections.abc import Callable

import uvicorn

from loralab.errors import OutputError
from loralab.serving.http.app import make_app
from loralab.serving.http.server import Server

BACKLOG = 2048


def listen(server: Server, host: str, port: int, log_level: str, ready: Callable[[int], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; what has been begun is finished. `ready` is told the port before any request.

    Raises OutputError where the port cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OutputError(
            f"port {port} of {host} cannot be listened on: {error.strerror}; choose another --port"
        ) from error
    with listening:
        ready(int(listening.getsockname()[1]))
        config = uvicorn.Config(
            make_app(server), log_level=log_level, timeout_graceful_shutdown=int(server.config.seconds)
        )
        uvicorn.Server(config).run([listening])
