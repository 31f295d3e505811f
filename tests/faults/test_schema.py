"""schemathesis against the routes that take a body: what fits its schema and what does not, thousands of each.

schemathesis is no dependency; it is looked for on the path, or where SCHEMATHESIS says:

    python -m venv /tmp/schemathesis && /tmp/schemathesis/bin/pip install schemathesis
    SCHEMATHESIS=/tmp/schemathesis/bin/schemathesis python -m pytest -m faults tests/faults/test_schema.py
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic.json_schema import models_json_schema

from faults.judging import SEED
from loralab.serving.engine.engine import EngineConfig
from loralab.serving.http.bodies import Body, ChatBody, ClassifyBody, CompletionBody, LoadBody, UnloadBody
from serving.http.servers import ADMIN, made, served, write_place

ROUTES: dict[str, type[Body]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/classify": ClassifyBody,
    "/v1/load_lora_adapter": LoadBody,
    "/v1/unload_lora_adapter": UnloadBody,
}
REFUSAL = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {"message": {"type": "string", "minLength": 1, "maxLength": 1000}},
        }
    },
}
STATUSES = ("400", "403", "404", "409", "413", "415")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)
REFUSED_BY = f"[checks.negative_data_rejection]\nexpected-statuses = {json.dumps([*STATUSES, '405'])}\n"
SCHEMATHESIS = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")


def may_be_null(schema: dict[str, Any]) -> dict[str, Any]:
    """As `Body` has it: what may be left out may be null."""
    required = schema.get("required", ())
    properties = {
        name: each if name in required else {"anyOf": [each, {"type": "null"}]}
        for name, each in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties} if properties else schema


def document() -> dict[str, Any]:
    """OpenAPI's words for those routes, made of the classes that read them."""
    kinds = [(kind, "validation") for kind in ROUTES.values()]
    _, schemas = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    refused = {"description": "refused", "content": {"application/json": {"schema": REFUSAL}}}
    answers = {"200": {"description": "answered"}, **dict.fromkeys(STATUSES, refused)}
    paths = {
        route: {
            "post": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}},
                },
                "responses": answers,
            }
        }
        for route, kind in ROUTES.items()
    }
    components = {name: may_be_null(each) for name, each in schemas["$defs"].items()}
    for kind in (CompletionBody, ChatBody, ClassifyBody):
        components[kind.__name__]["properties"]["model"] = {"enum": ["base", "sql", "nobody"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "loralab", "version": "1"},
        "paths": paths,
        "components": {"schemas": components},
    }


@pytest.mark.faults
@pytest.mark.skipif(SCHEMATHESIS is None, reason="schemathesis is not installed here; see above")
def test_what_fits_the_schema_and_what_does_not(tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(document()))
    (tmp_path / "schemathesis.toml").write_text(REFUSED_BY)
    place = write_place(tmp_path / "a-secret-path", "sql", "spare")
    for url in served(made(place, admin_token=ADMIN, engine=EngineConfig(rows=2, length=128))):
        words = ["run", tmp_path / "openapi.json", "--url", url, "--checks", CHECKS, "--max-examples", "400"]
        words += ["--header", f"Authorization: Bearer {ADMIN}", "--seed", SEED or 0, "--continue-on-failure"]
        words += ["--phases", "coverage,fuzzing", "--request-timeout", "60", "--no-color"]
        told = subprocess.run([str(SCHEMATHESIS), *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
        said = "\n".join(f"{line[:300]}…" if len(line) > 300 else line for line in told.stdout.splitlines())
        assert told.returncode == 0, said + told.stderr[-2000:]
        body = {"model": "sql", "prompt": "x", "max_tokens": 2}
        assert httpx2.post(f"{url}/v1/completions", json=body, timeout=60).status_code == 200
