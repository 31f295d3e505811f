"""OpenAI's JSON, from what the engine wrote."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from loralab.serving.engine.request import Reason, Token
from loralab.serving.http.answering import Answer, TextPiece
from loralab.serving.http.codec import Codec

ENDED: dict[Reason, str] = {"stop": "stop", "length": "length", "cancelled": "stop", "failed": "stop"}
"""The engine's reasons in OpenAI's words; an answer that failed is an error, not an answer."""


@dataclass(frozen=True)
class Shape:
    """Completions, or chat completions."""

    chat: bool
    codec: Codec
    model: str
    top: int | None
    """How many of the likeliest tokens are told with each; None: no logprobs at all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid4().hex}")
        object.__setattr__(self, "created", int(time.time()))

    id: str = ""
    created: int = 0

    def whole(
        self, answers: Sequence[Answer], echoes: Sequence[str], prompt_tokens: int, known: int = 0
    ) -> dict[str, Any]:
        """An answer that is not streamed; every text begins with its echo."""
        choices = [
            {
                "index": index,
                **({"message": self._message(answer.text)} if self.chat else {"text": echo + answer.text}),
                "logprobs": self._logprobs(answer.tokens),
                "finish_reason": ENDED[answer.reason],
            }
            for index, (answer, echo) in enumerate(zip(answers, echoes, strict=True))
        ]
        new = sum(len(answer.tokens) for answer in answers)
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage(prompt_tokens, new, known)}

    def begun(self, index: int) -> dict[str, Any]:
        """The first event of a streamed chat."""
        return self._chunk({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def echoed(self, index: int, prompt: str) -> dict[str, Any]:
        """The first event of a streamed completion that begins with its prompt."""
        return self._chunk({"index": index, "text": prompt, "logprobs": None, "finish_reason": None})

    def piece(self, index: int, piece: TextPiece, offset: int = 0) -> dict[str, Any]:
        """A streamed piece, before which `offset` characters of tokens have been told."""
        said = {"delta": {"content": piece.text} if piece.text else {}} if self.chat else {"text": piece.text}
        reason = None if piece.reason is None else ENDED[piece.reason]
        logprobs = self._logprobs(piece.tokens, offset) if piece.tokens else None
        return self._chunk({"index": index, **said, "logprobs": logprobs, "finish_reason": reason})

    def usage(self, prompt_tokens: int, new: int, known: int = 0) -> dict[str, Any]:
        """The last event of a stream that was asked for counts."""
        return {**self._chunk(None), "usage": usage(prompt_tokens, new, known)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [] if choice is None else [choice]}

    @staticmethod
    def _message(text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": text, "refusal": None}

    def width(self, tokens: Sequence[Token]) -> int:
        """Characters of the tokens, each by itself, as offsets count them; 0 where none are told."""
        return 0 if self.top is None else sum(len(self.codec.token(token.id)) for token in tokens)

    def _logprobs(self, tokens: Sequence[Token], offset: int = 0) -> dict[str, Any] | None:
        if self.top is None:
            return None
        return self._of_chat(tokens) if self.chat else self._of_completion(tokens, offset)

    def _of_chat(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._entry(token.id, token.logprob or 0.0),
                    "top_logprobs": [self._entry(id, logprob) for id, logprob in token.likeliest],
                }
                for token in tokens
            ]
        }

    def _entry(self, id: int, logprob: float) -> dict[str, Any]:
        text = self.codec.token(id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _of_completion(self, tokens: Sequence[Token], offset: int) -> dict[str, Any]:
        texts = [self.codec.token(token.id) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self.codec.token(id): each for id, each in token.likeliest} for token in tokens],
            "text_offset": [offset + sum(map(len, texts[:place])) for place in range(len(texts))],
        }


def usage(prompt_tokens: int, new: int, known: int = 0) -> dict[str, Any]:
    """Token counts; `known` of the prompt were not read, for they had been before."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new,
        "total_tokens": prompt_tokens + new,
        "prompt_tokens_details": {"cached_tokens": known},
    }
