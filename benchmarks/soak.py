"""A served fleet under load: many clients, adapters that come and go, clients that hang up, malformed requests between.

    python -m benchmarks.soak --seconds 300 --clients 32

`loralab serve` runs in a process of its own. Before the clients come every question is asked alone, in two versions of
the adapter whose folder will be exchanged while it is served; afterwards every answer must be one of those of its own
name. The server's memory after warm-up must stay within 5% of what it was then. Prints one JSON object; exit 1 where
anything was lost, mixed up or grew, or no beginning of a prompt was used again.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx2
import psutil

TOKEN = "soak"
DTYPE = "float32"
"""In bfloat16 an answer may differ from the lone one in its last bits: attention over a longer cache sums otherwise."""
NEW, PROMPTS = 12, 6
FLAT = 1.05
"""The server's memory at its end over that at the end of its warm-up."""
WARM_UP = 0.4
"""Of the time."""
TEXT = "def double(x):\n    return 2 * x\n\n\ndef third(numbers):\n    return numbers[2]\n"
"""What half of the prompts begin with, several times over."""
MALFORMED: list[tuple[int, dict[str, Any]]] = [
    (404, {"model": "nobody"}),
    (404, {"model": "../base"}),
    (400, {"max_tokens": 0}),
    (400, {"prompt": []}),
    (400, {"prompt": "x" * 60_000}),
    (400, {"temperature": "hot"}),
    (400, {"nonsense": True}),
    (400, {"logit_bias": {"a": 1}}),
]


@dataclass
class Soak:
    """What is asked, what the right answers are, and what came."""

    url: str
    names: list[str]
    repeats: int
    """Of `TEXT`: enough to fill a block of tokens that is kept."""
    allowed: dict[tuple[str, int, bool], set[str]] = field(default_factory=dict)
    """By name, prompt and whether it is sampled."""
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def body(self, name: str, prompt: int, sampled: bool) -> dict[str, Any]:
        """A request; prompts share their beginning."""
        words = (
            f"{TEXT * self.repeats}\n\ndef number_{'abcdef'[prompt]}(x):\n"
            if prompt % 2
            else f"def {'abcdef'[prompt]}(x):"
        )
        chance = {"temperature": 0.8, "seed": prompt} if sampled else {"temperature": 0}
        return {"model": name, "prompt": words, "max_tokens": NEW, **chance}

    async def learn(self, client: httpx2.AsyncClient) -> None:
        """Ask everything alone."""
        for name in self.names:
            for prompt in range(PROMPTS):
                for sampled in (False, True):
                    answer = await client.post("/v1/completions", json=self.body(name, prompt, sampled))
                    answer.raise_for_status()
                    self.allowed.setdefault((name, prompt, sampled), set()).add(_text(answer))

    async def ask(self, client: httpx2.AsyncClient, chance: random.Random) -> None:
        """One request of any kind."""
        name, prompt, sampled = chance.choice(self.names), chance.randrange(PROMPTS), chance.random() < 0.3
        body, kind = self.body(name, prompt, sampled), chance.random()
        if kind < 0.1:
            await self._malformed(client, body, chance)
        elif kind < 0.2:
            await self._hang_up(client, body)
        else:
            await self._answered(client, body, (name, prompt, sampled))

    async def _malformed(self, client: httpx2.AsyncClient, body: dict[str, Any], chance: random.Random) -> None:
        status, change = chance.choice(MALFORMED)
        answer = await client.post("/v1/completions", json=body | change)
        self.counts["malformed"] += 1
        if answer.status_code != status:
            self.wrong.append(f"{list(change)}: {answer.status_code}, not {status}: {answer.text[:200]}")

    async def _hang_up(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> None:
        async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
            async for _ in answer.aiter_lines():
                break
        self.counts["hung up"] += 1

    async def _answered(self, client: httpx2.AsyncClient, body: dict[str, Any], key: tuple[str, int, bool]) -> None:
        begun = time.monotonic()
        answer = await client.post("/v1/completions", json=body)
        self.seconds.append(time.monotonic() - begun)
        self.counts["answered"] += 1
        if answer.status_code != 200:
            self.wrong.append(f"{key}: {answer.status_code}: {answer.text[:200]}")
        elif _text(answer) not in self.allowed[key]:
            self.wrong.append(f"{key}: {_text(answer)!r}, not {self.allowed[key]}")


def _text(answer: httpx2.Response) -> str:
    return str(answer.json()["choices"][0]["text"])


async def _clients(soak: Soak, clients: int, until: float) -> None:
    async def go(number: int) -> None:
        chance = random.Random(number)
        async with httpx2.AsyncClient(base_url=soak.url, timeout=300) as client:
            while time.monotonic() < until:
                await soak.ask(client, chance)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(go(number))


async def _come_and_go(soak: Soak, folder: Path, until: float) -> None:
    """Load and unload under names of its own, and exchange a served folder for its other version."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(base_url=soak.url, timeout=300, headers=headers) as client:
        for turn in range(10**6):
            if time.monotonic() > until:
                return
            name = f"guest{turn}"
            for route, body in (
                ("load", {"lora_name": name, "lora_path": "a0"}),
                ("", soak.body(name, 0, False)),
                ("unload", {"lora_name": name}),
            ):
                path = f"/v1/{route}_lora_adapter" if route else "/v1/completions"
                answer = await client.post(path, json=body)
                soak.counts[route or "guest answered"] += 1
                right = answer.status_code == 200 and (route or _text(answer) in soak.allowed["a0", 0, False])
                if not right:
                    soak.wrong.append(f"{route or 'guest'} {turn}: {answer.status_code}: {answer.text[:200]}")
            _exchange(folder, turn)
            await asyncio.sleep(0.2)


def _exchange(folder: Path, turn: int) -> None:
    """The other version in the place of `changing`: a link that is exchanged in one step, as a careful user would."""
    link = folder / ".next"
    link.symlink_to(f"version{turn % 2}", target_is_directory=True)
    link.replace(folder / "changing")


async def _memory(process: psutil.Process, until: float) -> list[int]:
    found = []
    while time.monotonic() < until:
        found.append(process.memory_info().rss)
        await asyncio.sleep(0.25)
    return found


@contextmanager
def serving(model: str, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server's address and process."""
    command = [sys.executable, "-m", "loralab", "serve", "--model", model, "--adapters", str(folder), "--port", "0"]
    command += ["--admin-token", TOKEN, "--dtype", DTYPE, "--prefix-cache", "32", "--in-memory", "6"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said, env=os.environ | {"COLUMNS": "200"})
        try:
            yield _address(process, said), psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(120)


def _address(process: "subprocess.Popen[bytes]", said: IO[str]) -> str:
    """Where it listens, once it says so."""
    while process.poll() is None:
        said.seek(0)
        found = re.search(r"http://127\.0\.0\.1:\d+", said.read())
        if found:
            return found.group()
        time.sleep(0.1)
    raise SystemExit("the server did not start")


def make_adapters(model: str, root: Path, count: int = 8) -> Path:
    """A folder of adapters of several ranks that do something, and `changing`, which is one of two versions."""
    import torch

    import loralab as ll
    from loralab.models.load import load_model

    base = load_model(model, dtype="float32").model
    names = {f"adapters/a{number}": 2 + number for number in range(count)} | {
        f"adapters/version{number}": 4 for number in (0, 1)
    }
    for seed, (name, rank) in enumerate(names.items()):
        torch.manual_seed(seed)
        adapter = ll.attach(base, ll.LoRA(rank=rank, targets=["q_proj", "v_proj", "o_proj"]))
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        ll.save(adapter, root / name)
        ll.detach(base)
    _exchange(root / "adapters", 0)
    return root / "adapters"


async def _soaked(soak: Soak, process: psutil.Process, folder: Path, seconds: float, clients: int) -> list[int]:
    async with httpx2.AsyncClient(base_url=soak.url, timeout=300) as client:
        await soak.learn(client)
        for version in (1, 0):  # both, before anything changes
            _exchange(folder, version)
            alone = Soak(soak.url, ["changing"], soak.repeats, soak.allowed)
            await alone.learn(client)
    until = time.monotonic() + seconds
    jobs = (_memory(process, until), _clients(soak, clients, until), _come_and_go(soak, folder, until))
    return (await asyncio.gather(*jobs))[0]


def soak(model: str, seconds: float, clients: int, adapters: int = 8, repeats: int = 6) -> dict[str, Any]:
    """What came of it; `load` is that of the machine before, of whatever else runs there."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as root:
        folder = make_adapters(model, Path(root), adapters)
        with serving(model, folder) as (url, process):
            names = [model, "changing", *(f"a{number}" for number in range(adapters))]
            run = Soak(url, names, repeats)
            memory = asyncio.run(_soaked(run, process, folder, seconds, clients))
            metrics = httpx2.get(f"{url}/metrics").text
    early = max(memory[: max(1, int(len(memory) * WARM_UP))])
    late = statistics.median(memory[-max(1, len(memory) // 5) :])
    reused = re.search(r"loralab_prefix_tokens_reused ([\d.e+]+)", metrics)
    times = sorted(run.seconds) or [0.0]
    return {
        "seconds": seconds,
        "clients": clients,
        "model": Path(model).name,
        "dtype": DTYPE,
        "load": round(load, 1),
        "counts": dict(run.counts),
        "wrong": run.wrong[:20],
        "wrong_count": len(run.wrong),
        "p50_seconds": round(statistics.median(times), 3),
        "p95_seconds": round(times[int(0.95 * (len(times) - 1))], 3),
        "memory_warm_bytes": early,
        "memory_end_bytes": int(late),
        "memory_ratio": round(late / early, 4),
        "prefix_tokens_reused": float(reused.group(1)) if reused else None,
    }


def main() -> int:
    """From the command line."""
    flags = argparse.ArgumentParser(description="A served fleet under load.")
    flags.add_argument("--model", default="smollm2-135m")
    flags.add_argument("--seconds", type=float, default=300)
    flags.add_argument("--clients", type=int, default=32)
    given = flags.parse_args()
    found = soak(given.model, given.seconds, given.clients)
    print(json.dumps(found, indent=2))
    return int(bool(found["wrong_count"]) or found["memory_ratio"] > FLAT or not found["prefix_tokens_reused"])


if __name__ == "__main__":
    sys.exit(main())
