"""The command `llm` as a client, where it is installed: a program that knows nothing of this server."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from serving.http.servers import PROMPT, made, served, write_place

LLM = shutil.which("llm")
pytestmark = pytest.mark.skipif(LLM is None, reason="the command llm (from PyPI) is not installed")
GREEDY = ("-o", "max_tokens", "6", "-o", "temperature", "0")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its settings, which name the base and an adapter."""
    home = tmp_path_factory.mktemp("llm")
    for url in served(made(write_place(home, "sql"))):
        models = [{"model_id": name, "model_name": name, "api_base": f"{url}/v1"} for name in ("base", "sql")]
        (home / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
        (home / "url").write_text(url)
        yield home


def said(home: Path, *arguments: str) -> str:
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    command = [str(LLM), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


@pytest.mark.parametrize("model", ["base", "sql"])
def test_it_is_answered_plain_and_streamed(home: Path, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 6, "temperature": 0}
    whole = httpx2.post(f"{(home / 'url').read_text()}/v1/chat/completions", json=body, timeout=60).json()
    expected = whole["choices"][0]["message"]["content"].rstrip("\n")
    assert said(home, "-m", model, *GREEDY, PROMPT) == expected
    assert said(home, "-m", model, "--no-stream", *GREEDY, PROMPT) == expected


def test_a_conversation_goes_on(home: Path) -> None:
    said(home, "-m", "sql", *GREEDY, PROMPT)
    assert said(home, "--continue", *GREEDY, "and then?") != ""
