"""`loralab serve`: one base and hundreds of adapters behind OpenAI's routes."""

from dataclasses import dataclass
from typing import Literal

from loralab.cli.flags import NamesModel, Precision
from loralab.cli.opening import say
from loralab.cli.verb import Answer, Verb
from loralab.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class ServeConfig(NamesModel):
    """The flags of `loralab serve`."""

    adapters: str | None = None
    """The folder that holds the adapters' folders: each answers to its folder's name. Without it the base alone."""

    host: str = "127.0.0.1"
    """Where to listen; 0.0.0.0 lets other machines in."""

    port: int = 8000
    """0 takes any that is free."""

    admin_token: str | None = None
    """Who sends it may load and unload adapters; without one nobody may."""

    api_key: str | None = None
    """Every request must bring it, as Authorization: Bearer KEY."""

    rows: int = 16
    """Answers that are written at once."""

    length: int | None = None
    """Tokens of prompt and answer together; without it the model's context, 2,048 at most."""

    waiting: int = 256
    """Requests that may wait; more are told to come again later."""

    timeout: float = 600.0
    """Seconds that a request may take."""

    in_memory: int = 64
    """Adapters that are kept in memory, those used last."""

    dtype: Precision = "auto"
    """Precision of the base model; auto is bfloat16 where the processor multiplies it natively."""

    device: str = "auto"
    """Where to compute: auto (the accelerator that torch finds), cpu, cuda, cuda:N, mps or xpu."""

    threads: int | None = None
    """CPU threads; without it torch decides."""

    log_level: Literal["warning", "info", "debug"] = "warning"
    """What the server writes of its work."""

    def __post_init__(self) -> None:
        """Raises SpecError that lists all that cannot be."""
        counts = ("rows", "waiting", "in_memory")
        problems = [f"{name} {getattr(self, name)}: at least 1" for name in counts if getattr(self, name) < 1]
        problems += [f"port {self.port}: 0 to 65535"] if not 0 <= self.port < 2**16 else []
        problems += [f"timeout {self.timeout}: above 0"] if not self.timeout > 0 else []
        for name in ("admin_token", "api_key"):
            if getattr(self, name) == "":
                problems.append(f"{name.replace('_', '-')} is empty: leave it out, or give one")
        if problems:
            raise SpecError("; ".join(problems))


def run(config: ServeConfig) -> Answer:
    """Load the model and serve until it is stopped."""
    from pathlib import Path

    import torch

    from loralab.models.load import load_model
    from loralab.serving.engine.engine import EngineConfig
    from loralab.serving.http.listening import listen
    from loralab.serving.http.server import Server, ServerConfig

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    loaded = load_model(config.model, dtype=config.dtype, device=config.device)
    wanted = ServerConfig(
        name=config.model,
        folder=None if config.adapters is None else Path(config.adapters),
        admin_token=config.admin_token,
        api_key=config.api_key,
        engine=EngineConfig(rows=config.rows, length=config.length),
        waiting=config.waiting,
        seconds=config.timeout,
        in_memory=config.in_memory,
    )
    server = Server(loaded.model, loaded.tokenizer, wanted)

    def greet(port: int) -> None:
        say([*loaded.notes, server.service.engine.how, *_greeting(config, server.registry.names(), port)])

    listen(server, config.host, config.port, config.log_level, greet)
    return {"requests": dict(server.counts.requests)}


def _greeting(config: ServeConfig, names: list[str], port: int) -> list[str]:
    """Where it listens, what it serves, and a line to try."""
    url = f"http://{'127.0.0.1' if config.host in ('0.0.0.0', '') else config.host}:{port}"
    few = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    key = " -H 'Authorization: Bearer KEY'" if config.api_key else ""
    asked = f'{{"model": "{(names or [config.model])[0]}", "prompt": "def double(x):", "max_tokens": 32}}'
    return [
        f"serving {config.model}" + (f" and {len(names)} adapters ({few})" if names else "") + f" at {url}",
        f"try: curl {url}/v1/completions{key} -H 'Content-Type: application/json' -d '{asked}'",
    ]


def show(answer: Answer) -> None:
    """What was served."""
    print(f"{sum(answer['requests'].values()):,} requests were answered")


VERB = Verb(
    ServeConfig,
    run,
    show,
    example="loralab serve --model smollm2-135m --adapters out/adapters --port 8000",
    needs=("serve",),
)
