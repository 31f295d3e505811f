"""The routes of adapters: which there are, what each is and does, and their coming and going."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from loralab.serving.http.bodies import LoadBody, UnloadBody
from loralab.serving.http.describing import described
from loralab.serving.http.effect import effect_of
from loralab.serving.http.gate import bearer
from loralab.serving.http.reading import read
from loralab.serving.http.server import Refused, Server, same


def add_adapters(app: FastAPI, server: Server) -> None:
    """OpenAI's list, our own, and vLLM's two routes."""
    _add_lists(app, server)
    _add_changes(app, server)


def _add_lists(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = [server.config.name, *(await asyncio.to_thread(server.registry.names))]
        parents = [None, *([server.config.name] * (len(names) - 1))]
        shared = {"object": "model", "created": server.started, "owned_by": "loralab"}
        return {
            "object": "list",
            "data": [{"id": name, **shared, "parent": parent} for name, parent in zip(names, parents, strict=True)],
        }

    @app.get("/v1/adapters")
    async def adapters() -> dict[str, Any]:
        return await asyncio.to_thread(described, server)

    @app.get("/v1/adapters/{name}/effect")
    async def effect(name: str) -> dict[str, Any]:
        version = await server.version(name)
        if version is None:
            raise Refused(400, f"{name!r} is the base: it has no effect on itself")
        return {"id": name, "effect": await effect_of(server, version)}


def _add_changes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> PlainTextResponse:
        _demand_admin(server, request)
        body = await read(request, LoadBody)
        if body.lora_name == server.config.name:
            raise Refused(400, f"lora_name {body.lora_name!r} is the base's; choose another")
        await asyncio.to_thread(server.registry.add, body.lora_name, body.lora_path)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> PlainTextResponse:
        _demand_admin(server, request)
        body = await read(request, UnloadBody)
        await asyncio.to_thread(server.registry.remove, body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _demand_admin(server: Server, request: Request) -> None:
    wanted = server.config.admin_token
    if wanted is None:
        raise Refused(403, "adapters cannot be changed here: start the server with --admin-token")
    if not same(bearer(request.headers), wanted):
        raise Refused(401, "the request needs Authorization: Bearer ADMIN_TOKEN")
