"""The two completion routes: from a body to requests, and from their answers to JSON or a stream."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from loralab.errors import SpecError
from loralab.serving.engine.request import Request
from loralab.serving.http.answering import TextPiece, pieces, whole
from loralab.serving.http.bodies import ChatBody, CompletionBody, CompletionFields
from loralab.serving.http.codec import Codec
from loralab.serving.http.refusing import error
from loralab.serving.http.server import Refused, Server, sse
from loralab.serving.http.shapes import Shape
from loralab.serving.registry import Version

TOO_LONG = "the request took longer than the server allows"
NOT_FINITE = "the model's scores for this prompt are not finite; no token can be chosen by them"
SEEDS = 2**64


class Completion:
    """One body, being answered until `deadline`, a time of the loop: a request for every prompt and every one of `n`
    answers to it."""

    def __init__(self, server: Server, body: CompletionFields, version: Version | None, deadline: float) -> None:
        self._server, self._body, self._version, self._deadline = server, body, version, deadline
        self._codec = codec = server.codec_of(version)
        self._prompts = _prompts_of(codec, server.vocabulary, body)
        chat = isinstance(body, ChatBody)
        self._stops = [*body.stops, *(codec.turn.texts if chat else ())]
        _check_biases(server, body)
        most, top = _asked(body)
        self._shape = Shape(chat, codec, body.model, top)
        self._known: dict[tuple[int, ...], int] = {}
        seed = secrets.randbits(32) if body.seed is None else body.seed
        self.requests = [
            Request(
                prompt=prompt,
                max_new_tokens=_room(server, prompt) if most is None else most,
                adapter=None if version is None else version.key,
                sampling=body.sampling((seed + number) % SEEDS),
                ends=codec.ends | set(codec.turn.tokens) if chat else codec.ends,
                logprobs=top,
            )
            for prompt in self._prompts
            for number in range(body.n)
        ]
        for request in self.requests:
            server.service.engine.check(request)
        self._echoes = _echoes(codec, body, self.requests)

    async def whole(self) -> dict[str, object]:
        """The answer as one JSON object."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(whole(self._pieces(request))) for request in self.requests]
        except* TimeoutError:
            raise Refused(504, TOO_LONG) from None
        answers = [task.result() for task in tasks]
        if any(answer.reason == "failed" for answer in answers):
            raise Refused(500, NOT_FINITE)
        return self._shape.whole(answers, self._echoes, self._prompt_tokens, self._known_tokens)

    async def stream(self) -> AsyncGenerator[str]:
        """The answer as server-sent events; an error, once they have begun, is one of them."""
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    yield event
        except* TimeoutError:
            yield sse(error(504, TOO_LONG))

    async def _events(self) -> AsyncGenerator[str]:
        queue: asyncio.Queue[tuple[int, TextPiece]] = asyncio.Queue()
        new, left, told = 0, len(self.requests), [0] * len(self.requests)
        async with asyncio.TaskGroup() as group:
            for index, request in enumerate(self.requests):
                group.create_task(self._put(queue, index, request))
                for event in self._beginning(index):
                    yield event
            while left:
                index, piece = await queue.get()
                new, left = new + len(piece.tokens), left - (piece.reason is not None)
                if piece.reason == "failed":
                    yield sse(error(500, NOT_FINITE))
                elif piece.text or piece.reason is not None or self._shape.top is not None:
                    yield sse(self._shape.piece(index, piece, told[index]))
                    told[index] += self._shape.width(piece.tokens)
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            yield sse(self._shape.usage(self._prompt_tokens, new, self._known_tokens))
        yield sse("[DONE]")

    def _beginning(self, index: int) -> list[str]:
        """The events before the first token."""
        if self._shape.chat:
            return [sse(self._shape.begun(index))]
        return [sse(self._shape.echoed(index, self._echoes[index]))] if self._echoes[index] else []

    async def _put(self, queue: "asyncio.Queue[tuple[int, TextPiece]]", index: int, request: Request) -> None:
        async for piece in self._pieces(request):
            queue.put_nowait((index, piece))

    async def _pieces(self, request: Request) -> AsyncIterator[TextPiece]:
        """The pieces, counted."""
        server, counts, model = self._server, self._server.counts, self._body.model
        counts.requests[model] += 1
        counts.prompt_tokens[model] += len(request.prompt)
        before, first = time.monotonic(), True
        found = pieces(server.service, self._codec.tokenizer, request, self._version, self._stops, self._deadline)
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


def _asked(body: CompletionFields) -> tuple[int | None, int | None]:
    """(most new tokens, likeliest tokens to tell)."""
    if isinstance(body, ChatBody):
        return body.max_completion_tokens or body.max_tokens, (body.top_logprobs or 0) if body.logprobs else None
    assert isinstance(body, CompletionBody)
    return body.max_tokens, body.logprobs


def _prompts_of(codec: Codec, vocabulary: int, body: CompletionFields) -> list[tuple[int, ...]]:
    if isinstance(body, ChatBody):
        return [codec.chat_ids([message.plain() for message in body.messages])]
    assert isinstance(body, CompletionBody)
    return _prompts(codec, vocabulary, body.prompt)


def _prompts(codec: Codec, vocabulary: int, prompt: str | Sequence[object]) -> list[tuple[int, ...]]:
    """A text, texts, token ids, or lists of them."""
    if isinstance(prompt, str):
        return [codec.prompt_ids(prompt)]
    if not prompt:
        raise SpecError("prompt is empty: give a text, or a list of texts or token ids")
    if all(isinstance(each, int) for each in prompt):
        return [_ids(vocabulary, prompt)]
    return [codec.prompt_ids(each) if isinstance(each, str) else _ids(vocabulary, each) for each in prompt]  # type: ignore[arg-type]


def _ids(vocabulary: int, ids: Sequence[object]) -> tuple[int, ...]:
    outside = [id for id in ids if not isinstance(id, int) or not 0 <= id < vocabulary]
    if outside:
        raise SpecError(f"prompt: {outside[0]!r} is no token id of the model, which has {vocabulary}")
    return tuple(id for id in ids if isinstance(id, int))


def _echoes(codec: Codec, body: CompletionFields, requests: Sequence[Request]) -> list[str]:
    """What every answer begins with: its prompt, where that was asked for."""
    if not (isinstance(body, CompletionBody) and body.echo):
        return [""] * len(requests)
    given = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    texts = [each for each in given if isinstance(each, str) for _ in range(body.n)]
    return texts or [codec.text_of(request.prompt) for request in requests]


def _room(server: Server, prompt: Sequence[int]) -> int:
    return max(1, server.service.engine.length - len(prompt))
