"""From a request to text, piece by piece: the bridge between the engine's thread and the server's loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from loralab.serving.engine.request import Done, Event, Reason, Request, Token
from loralab.serving.registry import Version
from loralab.serving.service import Service
from loralab.serving.text import TextSoFar


@dataclass(frozen=True)
class TextPiece:
    """What a token, or the end, added to an answer."""

    text: str
    tokens: tuple[Token, ...] = ()
    reason: Reason | None = None
    """Why the answer ended, in its last piece."""


async def pieces(
    service: Service,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    version: Version | None,
    stops: Sequence[str],
    deadline: float,
) -> AsyncGenerator[TextPiece]:
    """The answer as it is written; its last piece has the reason. Whoever stops listening ends it.

    Raises TimeoutError at `deadline`, a time of the loop.
    """
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
    service.ask(request, lambda event: _call(loop, events, event), version)
    text, ended = TextSoFar(tokenizer, stops), False
    try:
        async with asyncio.timeout_at(deadline):
            while not ended:
                piece = _piece(await events.get(), text)
                ended = piece.reason is not None
                yield piece
    finally:
        service.cancel(request)


def _call(loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[Event]", event: Event) -> None:
    """Hand an event over to the loop, if it still runs."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, event)


def _piece(event: Event, text: TextSoFar) -> TextPiece:
    if isinstance(event, Done):
        return TextPiece(text.finish(), reason=event.reason)
    new = text.add(event.id)
    return TextPiece(new, (event,), "stop" if text.stopped else None)


@dataclass(frozen=True)
class Answer:
    """A whole one."""

    text: str
    tokens: tuple[Token, ...]
    reason: Reason


async def whole(answer: AsyncIterator[TextPiece]) -> Answer:
    """All pieces together."""
    found = [piece async for piece in answer]
    tokens = tuple(token for piece in found for token in piece.tokens)
    return Answer("".join(piece.text for piece in found), tokens, found[-1].reason or "failed")
