"""The routes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from loralab.errors import LoralabError, NotFoundError, UnknownAdapterError
from loralab.serving.http.bodies import ChatBody, CompletionBody, CompletionFields, LoadBody, UnloadBody
from loralab.serving.http.completing import TOO_LONG, Completion
from loralab.serving.http.server import Refused, Server, same
from loralab.serving.http.shapes import error
from loralab.serving.registry import Version
from loralab.version import __version__

LARGEST_BODY = 4 * 2**20
"""Bytes."""
OPEN = ("/health", "/ready")
"""Routes that need no key."""
RETRY_SECONDS = "1"


def make_app(server: Server) -> FastAPI:
    """The application of a server, which it closes when it ends."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.close)

    app = FastAPI(title="loralab", version=__version__, lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(_gate(server))
    _add_errors(app, server)
    _add_completions(app, server)
    _add_adapters(app, server)
    _add_health(app, server)
    return app


# -- who may, and how much ----------------------------------------------------------------------------------------


Next = Callable[[Request], Awaitable[Response]]


def _gate(server: Server) -> Callable[[Request, Next], Awaitable[Response]]:
    """Refuses bodies that are too large and requests without the key."""

    async def gate(request: Request, call_next: Next) -> Response:
        length = request.headers.get("content-length", "0")
        if (
            not length.isdecimal()
            or int(length) > LARGEST_BODY
            or "chunked" in request.headers.get("transfer-encoding", "")
        ):
            return _answer(server, 413, f"a body may have {LARGEST_BODY:,} bytes, and must say how many it has")
        wanted = server.config.api_key
        admin = request.url.path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
        if wanted is not None and not admin and request.url.path not in OPEN and not same(_token(request), wanted):
            return _answer(server, 401, "the request needs Authorization: Bearer KEY", "authentication_error")
        return await call_next(request)

    return gate


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _answer(server: Server, status: int, message: str, kind: str = "invalid_request_error") -> JSONResponse:
    server.counts.refused[status] += 1
    headers = {"Retry-After": RETRY_SECONDS} if status in (429, 503) else None
    return JSONResponse(error(message, kind), status, headers)


def _add_errors(app: FastAPI, server: Server) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, problem: Refused) -> JSONResponse:
        return _answer(server, problem.status, problem.message, problem.kind)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> JSONResponse:
        said = "; ".join(
            f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in problem.errors()[:3]
        )
        return _answer(server, 400, said)

    @app.exception_handler(LoralabError)
    async def ours(request: Request, problem: LoralabError) -> JSONResponse:
        unknown = isinstance(problem, UnknownAdapterError | NotFoundError)
        return _answer(server, 404 if unknown else 400, _without_paths(server, str(problem)))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, problem: Exception) -> JSONResponse:
        return _answer(server, 500, "the server failed where it should not have; its log says how", "server_error")


def _without_paths(server: Server, message: str) -> str:
    """A message of ours as a stranger may read it."""
    folder = server.config.folder
    return message if folder is None else message.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")


# -- completions --------------------------------------------------------------------------------------------------


def _add_completions(app: FastAPI, server: Server) -> None:
    @app.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        return await _complete(server, body, request)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        return await _complete(server, body, request)


async def _complete(server: Server, body: CompletionFields, request: Request) -> Response:
    if server.waiting >= server.config.waiting:
        raise Refused(429, f"{server.config.waiting} requests are waiting, the most that may", "rate_limit_error")
    version = await _version(server, body.model)
    completion = Completion(server, body, version)
    if body.stream:
        return StreamingResponse(completion.stream(), media_type="text/event-stream")
    return await _unless_gone(request, completion)


async def _version(server: Server, name: str) -> Version | None:
    """The adapter that is asked for, within the time that a request may take."""
    try:
        async with asyncio.timeout(server.config.seconds):
            return await server.version(name)
    except TimeoutError:
        raise Refused(504, TOO_LONG, "timeout_error") from None


async def _unless_gone(request: Request, completion: Completion) -> Response:
    """The whole answer; nothing, at once, where the client hangs up."""
    answer = asyncio.ensure_future(completion.whole())
    gone = asyncio.ensure_future(_hung_up(request))
    done, _ = await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if answer not in done:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        return Response(status_code=499)
    return JSONResponse(answer.result())


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# -- adapters -----------------------------------------------------------------------------------------------------


def _add_adapters(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = [server.config.name, *(await asyncio.to_thread(server.registry.names))]
        parents = [None, *([server.config.name] * (len(names) - 1))]
        shared = {"object": "model", "created": server.started, "owned_by": "loralab"}
        return {
            "object": "list",
            "data": [{"id": name, **shared, "parent": parent} for name, parent in zip(names, parents, strict=True)],
        }

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadBody, request: Request) -> PlainTextResponse:
        _demand_admin(server, request)
        if body.lora_name == server.config.name:
            raise Refused(400, f"lora_name {body.lora_name!r} is the base's; choose another")
        await asyncio.to_thread(server.registry.add, body.lora_name, body.lora_path)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadBody, request: Request) -> PlainTextResponse:
        _demand_admin(server, request)
        await asyncio.to_thread(server.registry.remove, body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _demand_admin(server: Server, request: Request) -> None:
    wanted = server.config.admin_token
    if wanted is None:
        raise Refused(403, "adapters cannot be changed here: start the server with --admin-token", "permission_error")
    if not same(_token(request), wanted):
        raise Refused(401, "the request needs Authorization: Bearer ADMIN_TOKEN", "authentication_error")


# -- health -------------------------------------------------------------------------------------------------------


def _add_health(app: FastAPI, server: Server) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if server.service.is_alive else 503)

    @app.get("/ready")
    async def ready() -> Response:
        return Response(status_code=200 if server.service.is_alive else 503)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        engine = server.service.engine
        gauges = {
            "waiting_requests": server.waiting,
            "running_rows": engine.running,
            "rows": engine.config.rows,
            "adapter_memory_bytes": server.registry.memory_bytes,
            "bank_bytes": engine.bank.memory_bytes,
        }
        return PlainTextResponse(server.counts.page(gauges))
