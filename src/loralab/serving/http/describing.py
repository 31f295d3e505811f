"""What there is to say of the adapters of a server, without reading one: by their configurations, sizes and counts."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from loralab.errors import LoralabError
from loralab.files.names import CONFIG_NAME, TENSORS_NAME
from loralab.serving.http.server import Server

LARGEST_CONFIG = 2**20
"""Bytes of a configuration that are read for a list."""


def described(server: Server) -> dict[str, Any]:
    """The base, and every adapter."""
    held = server.registry.held()
    return {
        "object": "list",
        "base": {"id": server.config.name, **_counts(server, server.config.name)},
        "kind": server.kind,
        "chat": server.chats,
        "changes": server.config.admin_token is not None,
        "data": [_described(server, name, held.get(name)) for name in server.registry.names()],
    }


def _described(server: Server, name: str, key: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"id": name, "rank": None, "type": None, "bytes": None}
    try:
        found |= _on_disk(server.registry.folder_of(name))
    except (LoralabError, OSError):
        found["problem"] = "its folder cannot be read"
    effect = None if key is None else server.effects.get(key)
    return found | {"in_memory": key is not None, "effect": effect, **_counts(server, name)}


def _counts(server: Server, name: str) -> dict[str, int]:
    counts = server.counts
    return {
        "requests": counts.requests[name],
        "prompt_tokens": counts.prompt_tokens[name],
        "generated_tokens": counts.new_tokens[name],
    }


def _on_disk(folder: Path) -> dict[str, Any]:
    config, tensors = (folder / CONFIG_NAME).stat(), (folder / TENSORS_NAME).stat()
    rank, kind = _configured(folder / CONFIG_NAME, config.st_mtime_ns, config.st_size)
    return {"rank": rank, "type": kind, "bytes": tensors.st_size}


@lru_cache(4096)
def _configured(path: Path, changed: int, size: int) -> tuple[int | None, str | None]:
    """(largest rank, PEFT's name of the kind), as far as the file says them; read again once it has changed."""
    if size > LARGEST_CONFIG:
        return None, None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None, None
    if not isinstance(content, dict):
        return None, None
    own, pattern, kind = content.get("r"), content.get("rank_pattern"), content.get("peft_type")
    ranks = [own, *(pattern.values() if isinstance(pattern, dict) else ())]
    largest = max((rank for rank in ranks if isinstance(rank, int)), default=None)
    return largest, kind if isinstance(kind, str) else None
