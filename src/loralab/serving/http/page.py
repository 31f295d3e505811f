"""The page at `/`: three files of the package, as they are, that load nothing from anywhere."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""What the page may do: run and show its own files, and ask its own server."""
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def add_page(app: FastAPI) -> None:
    """Its routes."""
    for path, (name, media) in FILES.items():
        _add(app, path, files("loralab.serving.http").joinpath("static", name).read_bytes(), media)


def _add(app: FastAPI, path: str, content: bytes, media: str) -> None:
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}

    @app.get(path)
    async def file() -> Response:
        return Response(content, media_type=f"{media}; charset=utf-8", headers=headers)
