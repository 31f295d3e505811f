"""The routes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from loralab.errors import LoralabError, NotFoundError, UnknownAdapterError
from loralab.serving.http.adapters import add_adapters
from loralab.serving.http.bodies import ChatBody, ClassifyBody, CompletionBody, CompletionFields
from loralab.serving.http.classify import classified
from loralab.serving.http.completing import TOO_LONG, Completion
from loralab.serving.http.gate import Gate
from loralab.serving.http.page import add_page
from loralab.serving.http.reading import read
from loralab.serving.http.refusing import answer, without_paths
from loralab.serving.http.server import Refused, Server
from loralab.version import __version__


def make_app(server: Server) -> FastAPI:
    """The application of a server, which it closes when it ends."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.close)

    app = FastAPI(title="loralab", version=__version__, lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, server=server)
    _add_errors(app, server)
    _add_completions(app, server)
    _add_classify(app, server)
    add_adapters(app, server)
    _add_health(app, server)
    add_page(app)
    return app


def _add_errors(app: FastAPI, server: Server) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, problem: Refused) -> JSONResponse:
        return answer(server, problem)

    @app.exception_handler(LoralabError)
    async def ours(request: Request, problem: LoralabError) -> JSONResponse:
        unknown = isinstance(problem, UnknownAdapterError | NotFoundError)
        return answer(server, Refused(404 if unknown else 400, without_paths(server, str(problem))))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, problem: HTTPException) -> JSONResponse:
        said = {404: "there is no such route", 405: "the route is not asked by this method"}
        refusal = answer(server, Refused(problem.status_code, said.get(problem.status_code, str(problem.detail))))
        refusal.headers.update(problem.headers or {})  # Allow: the methods by which the route is asked
        return refusal

    @app.exception_handler(Exception)
    async def unexpected(request: Request, problem: Exception) -> JSONResponse:
        return answer(server, Refused(500, "the server failed where it should not have; its log says how"))


# -- completions --------------------------------------------------------------------------------------------------


def _add_completions(app: FastAPI, server: Server) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _complete(server, await read(request, CompletionBody), request)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _complete(server, await read(request, ChatBody), request)


async def _complete(server: Server, body: CompletionFields, request: Request) -> Response:
    assert server.service  # or it is refused
    deadline = asyncio.get_running_loop().time() + server.config.seconds
    with ExitStack() as held:
        held.enter_context(server.admitted(body.answers))
        if body.stream:
            completion = await _begun(server, body, deadline)
            return EventStream(completion.stream(), held.pop_all())
        return await unless_gone(request, _whole(server, body, deadline))


async def _begun(server: Server, body: CompletionFields, deadline: float) -> Completion:
    """A completion whose adapter is at hand and whose prompts are tokens."""
    try:
        async with asyncio.timeout_at(deadline):
            version = await server.version(body.model)
            return await asyncio.to_thread(Completion, server, body, version, deadline)
    except TimeoutError:
        raise Refused(504, TOO_LONG) from None


async def _whole(server: Server, body: CompletionFields, deadline: float) -> dict[str, object]:
    return await (await _begun(server, body, deadline)).whole()


def _add_classify(app: FastAPI, server: Server) -> None:
    @app.post("/v1/classify")
    async def classify(request: Request) -> Response:
        body = await read(request, ClassifyBody)
        with server.admitted(len(body.inputs)):
            return await unless_gone(request, classified(server, body))


class EventStream(StreamingResponse):
    """Server-sent events; whatever was held for them is let go when they end, however they do."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str], held: ExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events, self._held = events, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        with self._held:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)


async def unless_gone(request: Request, work: Coroutine[Any, Any, dict[str, object]]) -> Response:
    """What the work comes to, as JSON; nothing, and the work is ended at once, where the client hangs up."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        done, _ = await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    return JSONResponse(working.result()) if working in done else Response(status_code=499)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# -- health -------------------------------------------------------------------------------------------------------


def _add_health(app: FastAPI, server: Server) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if server.is_alive else 503)

    @app.get("/ready")
    async def ready() -> Response:
        return Response(status_code=200 if server.is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(server.counts.page(server.gauges()))
