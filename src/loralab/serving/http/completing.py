"""The two completion routes: from a body to requests, and from their answers to JSON or a stream."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence

from loralab.errors import SpecError
from loralab.serving.engine.request import Request
from loralab.serving.http.answering import TextPiece, pieces, whole
from loralab.serving.http.bodies import ChatBody, CompletionBody, CompletionFields
from loralab.serving.http.server import Refused, Server, sse
from loralab.serving.http.shapes import Shape, error
from loralab.serving.registry import Version

TOO_LONG = "the request took longer than the server allows"


class Completion:
    """One body, being answered: a request for every prompt and every one of `n` answers to it."""

    def __init__(self, server: Server, body: CompletionFields, version: Version | None) -> None:
        self._server, self._body, self._version = server, body, version
        prompts, most, top = _asked(server, body)
        _check_biases(server, body)
        self._prompts = prompts
        self._known: dict[tuple[int, ...], int] = {}
        self._shape = Shape(isinstance(body, ChatBody), server, body.model, top)
        seed = secrets.randbits(32) if body.seed is None else body.seed
        self.requests = [
            Request(
                prompt=prompt,
                max_new_tokens=_room(server, prompt) if most is None else most,
                adapter=None if version is None else version.key,
                sampling=body.sampling(seed + number),
                ends=server.ends,
                logprobs=top,
            )
            for prompt in prompts
            for number in range(body.n)
        ]
        for request in self.requests:
            server.service.engine.check(request)

    async def whole(self) -> dict[str, object]:
        """The answer as one JSON object."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(whole(self._pieces(request))) for request in self.requests]
        except* TimeoutError:
            raise Refused(504, TOO_LONG, "timeout_error") from None
        return self._shape.whole([task.result() for task in tasks], self._prompt_tokens, self._known_tokens)

    async def stream(self) -> AsyncIterator[str]:
        """The answer as server-sent events; an error, once they have begun, is one of them."""
        try:
            async for event in self._events():
                yield event
        except* TimeoutError:
            yield sse(error(TOO_LONG, "timeout_error"))

    async def _events(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[tuple[int, TextPiece]] = asyncio.Queue()
        new, left = 0, len(self.requests)
        async with asyncio.TaskGroup() as group:
            for index, request in enumerate(self.requests):
                group.create_task(self._put(queue, index, request))
                if self._shape.chat:
                    yield sse(self._shape.begun(index))
            while left:
                index, piece = await queue.get()
                new, left = new + len(piece.tokens), left - (piece.reason is not None)
                if piece.text or piece.reason is not None or self._shape.top is not None:
                    yield sse(self._shape.piece(index, piece))
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            yield sse(self._shape.usage(self._prompt_tokens, new, self._known_tokens))
        yield sse("[DONE]")

    async def _put(self, queue: "asyncio.Queue[tuple[int, TextPiece]]", index: int, request: Request) -> None:
        async for piece in self._pieces(request):
            queue.put_nowait((index, piece))

    async def _pieces(self, request: Request) -> AsyncIterator[TextPiece]:
        """The pieces, counted."""
        server, counts, model = self._server, self._server.counts, self._body.model
        counts.requests[model] += 1
        counts.prompt_tokens[model] += len(request.prompt)
        before, first = time.monotonic(), True
        found = pieces(
            server.service, server.tokenizer, request, self._version, self._body.stops, server.config.seconds
        )
        async for piece in found:
            now = time.monotonic()
            if piece.tokens:
                (counts.first_token if first else counts.between_tokens).add(now - before)
                self._known.setdefault(request.prompt, piece.tokens[0].known)
                before, first = now, False
                counts.new_tokens[model] += len(piece.tokens)
            yield piece

    @property
    def _prompt_tokens(self) -> int:
        return sum(map(len, self._prompts))

    @property
    def _known_tokens(self) -> int:
        """Of them those that were not read, for they had been before this body came."""
        return sum(self._known.get(prompt, 0) for prompt in set(self._prompts))


def _check_biases(server: Server, body: CompletionFields) -> None:
    unknown = [id for id in body.logit_bias or {} if not id.isdecimal() or int(id) >= server.vocabulary]
    if unknown:
        raise SpecError(f"logit_bias: {unknown[0]!r} is no token id of the model, which has {server.vocabulary}")


def _asked(server: Server, body: CompletionFields) -> tuple[list[tuple[int, ...]], int | None, int | None]:
    """(prompts, most new tokens, likeliest tokens to tell)."""
    if isinstance(body, ChatBody):
        prompt = server.chat_ids([message.plain() for message in body.messages])
        if body.top_logprobs is not None and not body.logprobs:
            raise SpecError("top_logprobs needs logprobs true")
        return (
            [prompt],
            body.max_completion_tokens or body.max_tokens,
            (body.top_logprobs or 0) if body.logprobs else None,
        )
    assert isinstance(body, CompletionBody)
    if body.best_of not in (None, body.n):
        raise SpecError(f"best_of {body.best_of} is not supported; leave it out, or give n")
    return _prompts(server, body.prompt), body.max_tokens, body.logprobs


def _prompts(server: Server, prompt: str | Sequence[object]) -> list[tuple[int, ...]]:
    """A text, texts, token ids, or lists of them."""
    if isinstance(prompt, str):
        return [server.prompt_ids(prompt)]
    if not prompt:
        raise SpecError("prompt is empty: give a text, or a list of texts or token ids")
    if all(isinstance(each, int) for each in prompt):
        return [_ids(server, prompt)]
    return [server.prompt_ids(each) if isinstance(each, str) else _ids(server, each) for each in prompt]  # type: ignore[arg-type]


def _ids(server: Server, ids: Sequence[object]) -> tuple[int, ...]:
    outside = [id for id in ids if not isinstance(id, int) or not 0 <= id < server.vocabulary]
    if outside:
        raise SpecError(f"prompt: {outside[0]!r} is no token id of the model, which has {server.vocabulary}")
    return tuple(id for id in ids if isinstance(id, int))


def _room(server: Server, prompt: Sequence[int]) -> int:
    return max(1, server.service.engine.length - len(prompt))
