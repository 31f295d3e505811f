"""`loralab serve`: one base and hundreds of adapters behind OpenAI's routes."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psutil

from loralab.cli.flags import NamesModel, Precision
from loralab.cli.opening import say
from loralab.cli.verb import Answer, Verb
from loralab.errors import SpecError, some

if TYPE_CHECKING:
    from loralab.serving.engine.engine import EngineConfig
    from loralab.serving.http.server import Server

SHOWN = 8
"""Adapters that are named at the start."""
_MEMORY = re.compile(r"\d{1,9}(\.\d+)?|\d{1,2}(\.\d+)?%")


@dataclass(frozen=True, kw_only=True)
class ServeConfig(NamesModel):
    """The flags of `loralab serve`."""

    adapters: str | None = None
    """The folder that holds the adapters' folders: each answers to its folder's name. Without it the base alone."""

    task: Literal["auto", "generation", "classification"] = "auto"
    """What the model does; auto: encoders and checkpoints of classifiers classify, all others write text."""

    host: str = "127.0.0.1"
    """Where to listen; 0.0.0.0 lets other machines in."""

    hosts: tuple[str, ...] = ()
    """Names that it answers to beside its own, such as a proxy's; where other machines are let in, any without it."""

    port: int = 8000
    """0 takes any that is free."""

    admin_token: str | None = None
    """Who sends it may load and unload adapters; without one nobody may."""

    api_key: str | None = None
    """Every request must bring it, as Authorization: Bearer KEY."""

    rows: int = 16
    """Answers that are computed at once."""

    length: int | None = None
    """Tokens of prompt and answer together; without it the model's context, 2,048 at most."""

    waiting: int = 256
    """Requests that may wait; more are told to come again later."""

    timeout: float = 600.0
    """Seconds that a request may take."""

    in_memory: int = 64
    """Adapters that are kept in memory, those used last."""

    prefix_cache: str = "256"
    """Memory for what prompts begin with, so that it is read once: MiB, or a share of what is free (10%); 0: none."""

    one_copy: bool = False
    """Keep no second copy of the weights in a layout that is quicker for few rows: half the memory, slower steps."""

    compile: bool | Literal["no"] = True
    """Compile what lies between a step's products, before it is ready; without a C++ compiler it says so. no: don't."""

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
        problems += [] if _MEMORY.fullmatch(self.prefix_cache) else [f"prefix-cache {self.prefix_cache!r}: 256, or 10%"]
        problems += [f"port {self.port}: 0 to 65535"] if not 0 <= self.port < 2**16 else []
        problems += [f"timeout {self.timeout}: above 0"] if not self.timeout > 0 else []
        for name in ("admin_token", "api_key"):
            if getattr(self, name) == "":
                problems.append(f"{name.replace('_', '-')} is empty: leave it out, or give one")
        if problems:
            raise SpecError("; ".join(problems))

    @property
    def prefix_bytes(self) -> int:
        """The memory for what prompts begin with; a share is of what is free now."""
        if self.prefix_cache.endswith("%"):
            return int(float(self.prefix_cache[:-1]) / 100 * psutil.virtual_memory().available)
        return int(float(self.prefix_cache) * 2**20)


def run(config: ServeConfig) -> Answer:
    """Load the model and serve until it is stopped."""
    from pathlib import Path

    import torch

    from loralab.models.fit import FRESH
    from loralab.models.load import load_model
    from loralab.models.outputs import output_names
    from loralab.serving.http.listening import listen
    from loralab.serving.http.server import Server, ServerConfig

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    kind = _kind(config)
    wanted = ServerConfig(
        name=config.model,
        folder=None if config.adapters is None else Path(config.adapters),
        admin_token=config.admin_token,
        api_key=config.api_key,
        hosts=_hosts(config),
        engine=engine_config(config),
        waiting=config.waiting,
        seconds=config.timeout,
        in_memory=config.in_memory,
    )
    servers: list[Server] = []

    def make() -> Server:
        loaded = load_model(config.model, kind=kind, dtype=config.dtype, device=config.device)
        say(note for note in loaded.notes if not note.startswith((FRESH, "no labels were given")))
        labels = output_names(loaded.model.config) if kind != "causal-lm" and not loaded.fresh else None
        servers.append(Server(loaded.model, loaded.tokenizer, wanted, labels))
        servers[0].test_itself()
        return servers[0]

    def greet(port: int, server: Server) -> None:
        say([*server.notes, *_greeting(config, server, port)])

    say([f"loading {config.model} …"])
    listen(make, config.host, config.port, config.log_level, greet)
    return {"requests": dict(servers[0].counts.requests) if servers else {}}


def engine_config(config: ServeConfig) -> "EngineConfig":
    """What the flags say of the engine."""
    from loralab.serving.engine.engine import EngineConfig

    return EngineConfig(
        rows=config.rows,
        length=config.length,
        pack=not config.one_copy,
        compile=config.compile is True,
        prefix_bytes=config.prefix_bytes,
    )


def _kind(config: ServeConfig) -> str:
    """The kind of model to load."""
    from loralab.models.families.table import FAMILY_BY_TYPE
    from loralab.models.load import read_config

    if config.task == "auto":
        found = read_config(config.model)
        family = FAMILY_BY_TYPE.get(found.model_type)
        of_classifier = any("ForSequenceClassification" in name for name in found.architectures or ())
        classifies = of_classifier or (family is not None and family.architecture == "encoder")
    else:
        classifies = config.task == "classification"
    return "sequence-classification" if classifies else "causal-lm"


def _hosts(config: ServeConfig) -> frozenset[str] | None:
    """The names that the server answers to; None: any."""
    from loralab.serving.http.gate import LOOPBACK

    own = {config.host.lower()} | (LOOPBACK if config.host in LOOPBACK else frozenset())
    if config.host not in LOOPBACK and not config.hosts:
        return None
    return frozenset({*own, *LOOPBACK, *(name.lower() for name in config.hosts)})


def _greeting(config: ServeConfig, server: "Server", port: int) -> list[str]:
    """Where it listens, what it serves, and a line to try."""
    import json
    import shlex

    host = "127.0.0.1" if config.host in ("0.0.0.0", "::", "") else config.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    names = server.registry.names()
    classifies = server.kind == "classification"
    counted = f" with {len(names)} adapter{'s' if len(names) > 1 else ''} ({some(names, SHOWN)})" if names else ""
    asked = {"input": "A fine film."} if classifies else {"prompt": "def double(x):"}
    body = {"model": (names or [config.model])[0], **asked}
    key = " -H 'Authorization: Bearer KEY'" if config.api_key else ""
    return [
        f"serving {config.model}{counted} for {server.kind}",
        f"a page to try them: {url}/",
        f"curl {url}/v1/{'classify' if classifies else 'completions'}{key} \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(json.dumps(body))}",
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
