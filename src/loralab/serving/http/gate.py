"""What is decided before a request is understood: by which name the server was called, from which page, with which key,
and whether its body is of a size and comes in a time that can be had.

A browser is led to this machine by any page that it shows, and by a name that comes to mean this machine afterwards
(DNS rebinding). So a server that listens on this machine alone answers to this machine's names, and nobody's page but
its own may ask it anything.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loralab.serving.http.refusing import answer
from loralab.serving.http.server import Refused, Server, same

LARGEST_BODY = 4 * 2**20
"""Bytes."""
UNGUARDED = ("/health", "/ready")
"""Routes that probes ask by any name."""
OPEN = (*UNGUARDED, "/", "/page.css", "/page.js")
"""Routes that need no key: they tell nothing."""
ADMIN = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
"""Routes that ask for a token of their own."""
SAFE: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""What every answer says of itself."""


class Gate:
    """Lets requests in, each with the whole of its body."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _marked(send)
        try:
            self._admit(scope["path"], Headers(scope=scope))
            body = await self._body(Headers(scope=scope), receive)
        except Refused as problem:
            await answer(self._server, problem)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _again(body, receive), send)

    def _admit(self, path: str, headers: Headers) -> None:
        config = self._server.config
        if path not in UNGUARDED:
            _check_host(headers, config.hosts)
            _check_origin(headers, config.hosts)
        wanted = config.api_key
        if wanted is not None and path not in (*OPEN, *ADMIN) and not same(bearer(headers), wanted):
            raise Refused(401, "the request needs Authorization: Bearer KEY")

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None where the client is gone."""
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            raise Refused(400, "Content-Length is no number")
        if len(length) > 12 or int(length) > LARGEST_BODY:
            raise Refused(413, f"a body may have {LARGEST_BODY:,} bytes")
        try:
            async with asyncio.timeout(self._server.config.body_seconds):
                return await _read(receive)
        except TimeoutError:
            seconds = self._server.config.body_seconds
            raise Refused(408, f"the body did not come within {seconds:g} seconds") from None


async def _read(receive: Receive) -> bytes | None:
    """What the client sends, as far as it may."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise Refused(413, f"a body may have {LARGEST_BODY:,} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read, as one message; then whatever follows."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received


def _marked(send: Send) -> Send:
    """Every answer with what it says of itself."""
    marks = [(name.encode(), value.encode()) for name, value in SAFE.items()]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *marks]}
        await send(message)

    return sent


def bearer(headers: Headers) -> str:
    """The key that a request brings; empty without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _check_host(headers: Headers, hosts: frozenset[str] | None) -> None:
    name = _name(headers.get("host", ""))
    if hosts is not None and name not in hosts:
        raise Refused(403, f"this server does not answer to the name {name!r}; start it with --hosts {name or 'NAME'}")


def _check_origin(headers: Headers, hosts: frozenset[str] | None) -> None:
    """A page may ask where it comes from the very address that it asks."""
    origin = headers.get("origin")
    if origin is None:
        return
    if _address(origin) != headers.get("host", "").lower() and not (hosts and _is_named(origin, hosts)):
        raise Refused(403, "pages of other origins may not ask this server")


def _is_named(origin: str, hosts: frozenset[str]) -> bool:
    """Whether it is a name that was given to the server, as before a proxy; this machine's own are anyone's."""
    return _name(_address(origin)) in hosts - LOOPBACK


def _address(origin: str) -> str:
    """`name:port` of `scheme://name:port`; empty for what is no such thing, as `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(address: str) -> str:
    """The host of `host:port`, in lower case and without the brackets of IPv6."""
    try:
        return (urlsplit(f"//{address}").hostname or "").rstrip(".")
    except ValueError:
        return ""


LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""This machine's names for itself."""
