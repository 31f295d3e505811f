"""Real servers on ports of their own, with a small base and small adapters."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from transformers import AutoModelForCausalLM, AutoTokenizer

from loralab.serving.engine.engine import EngineConfig
from loralab.serving.http.app import make_app
from loralab.serving.http.listening import listening_on
from loralab.serving.http.server import Server, ServerConfig
from serving.test_registry import write
from tiny import write_llama

ADMIN, PROMPT = "admin-secret", "def double(x):"
ENGINE = EngineConfig(rows=4, length=128, prefix_bytes=2**22, prefix_block=32)


def write_place(root: Path, *names: str) -> Path:
    """A base and adapters on disk."""
    model = AutoModelForCausalLM.from_pretrained(write_llama(root / "base"))
    for seed, name in enumerate(names):
        write(model, root / "adapters" / name, seed=seed)
    return root


def made(place: Path, **settings: Any) -> Server:
    model = AutoModelForCausalLM.from_pretrained(place / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "base")
    config = {"name": "base", "folder": place / "adapters", "engine": ENGINE} | settings
    return Server(model, tokenizer, ServerConfig(**config))


def served(server: Server) -> Iterator[str]:
    """Its address, while it listens."""
    listening = listening_on("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(make_app(server), log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join(30)
    listening.close()
