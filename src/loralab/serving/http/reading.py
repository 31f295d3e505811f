"""From the bytes of a body to what they say, strictly: JSON that every reader reads alike, or a refusal."""

import asyncio
import json
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from loralab.serving.http.server import Refused

MOST_PROBLEMS = 3
Read = TypeVar("Read", bound=BaseModel)


async def read(request: Request, kind: type[Read]) -> Read:
    """The body of a request. Refused where it is no JSON, or not of this kind."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Refused(415, "send JSON, and say so: Content-Type: application/json")
    return await asyncio.to_thread(_understood, await request.body(), kind)


def _understood(body: bytes, kind: type[Read]) -> Read:
    try:
        return kind.model_validate(parsed(body))
    except ValidationError as problem:
        found = problem.errors(include_url=False, include_input=False)
        raise Refused(400, "; ".join(map(_said, found[:MOST_PROBLEMS]))) from None


def parsed(body: bytes) -> Any:
    """JSON, without what readers disagree on: a name twice, NaN, half a surrogate pair."""
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None
    except UnicodeEncodeError:
        raise Refused(400, "a text of the body holds half a surrogate pair, which is no character") from None
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None
    except ValueError as problem:
        raise Refused(400, f"the body is no JSON that is read here: {str(problem).partition(';')[0]}") from None
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return content


def _said(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"])) or "body"
    if problem["type"] == "extra_forbidden":
        return f"{where}: not supported here; leave it out (nothing that would change an answer is passed over)"
    return f"{where}: {problem['msg']}"
