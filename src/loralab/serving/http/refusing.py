"""How a request is refused: a status, a kind and a sentence, without paths and of bounded length."""

from collections.abc import Mapping

from fastapi.responses import JSONResponse

from loralab.serving.http.server import Refused, Server

LONGEST_MESSAGE = 600
"""Characters: what a client sent is told back to it, but not all of it."""
RETRY_SECONDS = "1"
KINDS: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
"""OpenAI's words for statuses; `invalid_request_error` for all others."""


def error(status: int, message: str) -> dict[str, object]:
    """OpenAI's body of an error."""
    kind = KINDS.get(status, "invalid_request_error")
    return {"error": {"message": told(message), "type": kind, "param": None, "code": None}}


def told(message: str) -> str:
    """A message as it may be sent: as Unicode that can be written, and no longer than it need be."""
    cut = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} …"
    return cut.encode("utf-8", "replace").decode("utf-8")


def answer(server: Server, problem: Refused) -> JSONResponse:
    """The refusal, counted."""
    server.counts.refused[problem.status] += 1
    headers = {"Retry-After": RETRY_SECONDS} if problem.status in (429, 503) else {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error(problem.status, problem.message), problem.status, headers)


def without_paths(server: Server, message: str) -> str:
    """A message of ours as a stranger may read it."""
    folder = server.config.folder
    if folder is None:
        return message
    for path in (folder.resolve(), folder):
        message = message.replace(f"{path}/", "").replace(str(path), "the folder of adapters")
    return message
