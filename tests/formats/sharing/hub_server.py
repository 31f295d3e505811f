"""A Hub of one's own: an HTTP server that takes uploads as the real one does, for the real client."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_" + "a" * 34


@dataclass
class Hub:
    """What it has been sent."""

    url: str
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


@contextmanager
def running_hub(status: int = 200) -> Iterator[Hub]:
    """Serve on a free port; with another status every request is answered by that."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if status != 200 or self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "no"}, status if status != 200 else 401)
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization', 'me')}/{asked['name']}"
                hub.repositories[name] = asked
                return self.answer({"url": f"{hub.url}/{name}", "name": name, "id": name})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if re.search(r"/preupload/", self.path):
                paths = [each["path"] for each in json.loads(body)["files"]]
                return self.answer(
                    {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
                )
            if re.search(r"/commit/", self.path):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "header":
                        hub.messages.append(line["value"]["summary"])
                    elif line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return self.answer(
                    {"commitUrl": f"{hub.url}/me/sql/commit/1", "commitOid": "1", "pullRequestUrl": None}
                )
            return self.answer({"error": self.path}, 404)

        def do_GET(self) -> None:
            self.answer({"siblings": [], "sha": "0", "id": "me/sql"}, status)

        def answer(self, content: dict[str, Any], code: int = 200) -> None:
            text = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
