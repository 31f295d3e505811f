"""Who answers the same prompts in the same process: the engine for its base and for adapters, and others.

Every contender writes the same number of tokens to every prompt, the likeliest ones, and stops at no end.

Shapes: B prompts, T tokens.
"""

import copy
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.core.attach import attach, detach, rows
from loralab.experiments.serving.config import MIXED_RANKS, ServingConfig
from loralab.experiments.serving.peers import found
from loralab.extras import deferred
from loralab.formats.save import save
from loralab.methods.lora import LoRA
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.request import Request, Token
from loralab.serving.registry import Registry

peft = deferred("peft")
TARGETS = ("q", "k", "v", "o")
EAGER = ", eager"
"""Behind the name of a contender without compiled kernels."""
EFFECT = 0.02
"""The spread of the adapters' B, which starts at zero."""


@dataclass(frozen=True)
class AnswerTimes:
    """What one contender took for all prompts of a round."""

    seconds: float
    tokens: int
    first_token_seconds: float | None = None
    """The median over the requests, all of which came at once; None where nothing is told of it."""

    @property
    def tokens_per_second(self) -> float:
        """Prompts read and all."""
        return self.tokens / self.seconds


Contender = Callable[[], AnswerTimes]


class Answering:
    """The contenders, whose models, adapters and prompts are made once."""

    def __init__(self, model: PreTrainedModel, config: ServingConfig, folder: Path) -> None:
        self.config, self.model = config, model
        self.new_tokens = config.new_tokens
        self._prompts = _prompts(model, config)
        self._adapted = copy.deepcopy(model)
        pairs = self._made_adapters(folder / "one")
        self._paths = list(pairs["a0"])
        length = config.prompt_tokens + config.new_tokens
        self.engine = Engine(model, EngineConfig(rows=config.requests, length=length, compile=config.compile != "no"))
        self.eager = Engine(model, replace(self.engine.config, compile=False)) if config.compile == "both" else None
        for engine in filter(None, (self.engine, self.eager)):
            for name, each in pairs.items():
                engine.hold(name, each)
        self._many = self._registry(folder) if config.registered else None

    def table(self) -> dict[str, Contender]:
        """By name; those of one prompt say so."""
        names = [f"a{number}" for number in range(self.config.requests)]
        ranks = list(islice(cycle(f"r{rank}" for rank in MIXED_RANKS), self.config.requests))
        asked: dict[str, Sequence[str | None]] = {
            "one base": [None],
            "one adapter alone": ["a0"],
            "base": [None] * len(names),
            "one adapter": ["a0"] * len(names),
            "mixed": names,
            "mixed ranks": ranks,
        }
        table: dict[str, Contender] = {
            **{name: partial(self._asked, self.engine, who) for name, who in asked.items()},
            "generate one": lambda: self._generated(self.model, 1),
            "generate": lambda: self._generated(self.model, len(names)),
            "rows and generate": lambda: self._rows(names),
        }
        if self.eager is not None:
            table |= {f"{name}{EAGER}": partial(self._asked, self.eager, who) for name, who in asked.items()}
        if self._many is not None:
            table["mixed of many"] = self._asked_by_name
        if found()["peft"]:
            table["peft adapter_names"] = self._peft(names)
        return table

    def close(self) -> None:
        """Let the thread go that reads adapters."""
        if self._many is not None:
            self._many.close()

    # -- the engine -----------------------------------------------------------------------------------------------

    def _asked(self, engine: Engine, adapters: Sequence[str | None]) -> AnswerTimes:
        asked = zip(self._prompts, adapters, strict=False)
        requests = [Request(prompt=tuple(ids), max_new_tokens=self.new_tokens, adapter=who) for ids, who in asked]
        begun = time.perf_counter()
        for request in requests:
            engine.submit(request)
        first: dict[Request, float] = {}
        tokens = 0
        for event in engine.run():
            if isinstance(event, Token):
                first.setdefault(event.request, time.perf_counter() - begun)
                tokens += 1
        middle = sorted(first.values())[len(first) // 2]
        return AnswerTimes(time.perf_counter() - begun, tokens, middle)

    def _asked_by_name(self) -> AnswerTimes:
        """Adapters among many registered ones, found by name as a server finds them."""
        assert self._many is not None
        begun = time.perf_counter()
        versions = [self._many.version(f"n{number}") for number in range(self.config.requests)]
        for version in versions:
            self.engine.hold(version.key, version.pairs)
        outcome = self._asked(self.engine, [version.key for version in versions])
        return AnswerTimes(time.perf_counter() - begun, outcome.tokens, outcome.first_token_seconds)

    def _registry(self, folder: Path) -> Registry:
        """The same file under many names (hard links), each name an adapter of its own."""
        for number in range(self.config.registered):
            place = folder / "many" / f"n{number}"
            place.mkdir(parents=True)
            for file in (folder / "one").iterdir():
                os.link(file, place / file.name)
        return Registry(self.model, folder / "many")

    def _made_adapters(self, saved: Path) -> dict[str, Pairs]:
        """Attached to the copy of the model those of one rank; the pairs of all; and one saved."""
        found_pairs = {"r1": self._attached("r1", 1, None)}
        largest = min(min(A.shape[1], B.shape[0]) for A, B in found_pairs["r1"].values())
        for rank in MIXED_RANKS[1:]:
            found_pairs[f"r{rank}"] = self._attached(f"r{rank}", min(rank, largest), None)
        detach(self._adapted)
        for number in range(self.config.requests):
            name = f"a{number}"
            found_pairs[name] = self._attached(name, self.config.adapter_rank, saved if number == 0 else None)
        return found_pairs

    def _attached(self, name: str, rank: int, saved: Path | None) -> Pairs:
        adapter = attach(self._adapted, LoRA(rank=rank, targets=list(TARGETS)), name)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=EFFECT)
        if saved is not None:
            save(adapter, saved)
        updates: Any = adapter.updates
        return {path: tuple(each.detach() for each in update.settled_factors()) for path, update in updates.items()}

    # -- others ---------------------------------------------------------------------------------------------------

    def _generated(self, model: Any, count: int, **others: Any) -> AnswerTimes:
        ids_BT = torch.tensor(self._prompts[:count], device=self.model.device)
        new = self.new_tokens
        begun = time.perf_counter()
        with torch.inference_mode():
            out_BT: Tensor = model.generate(
                input_ids=ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                **others,
            )
        return AnswerTimes(time.perf_counter() - begun, count * (out_BT.shape[1] - ids_BT.shape[1]))

    def _rows(self, names: Sequence[str]) -> AnswerTimes:
        with rows(self._adapted, list(names)):
            return self._generated(self._adapted, len(names))

    def _peft(self, names: Sequence[str]) -> Contender:
        targets = sorted({path.rpartition(".")[2] for path in self._paths})
        settings = peft.LoraConfig(r=self.config.adapter_rank, target_modules=targets, init_lora_weights=False)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # PEFT asks transformers' old name
            wrapped = peft.get_peft_model(copy.deepcopy(self.model), settings, adapter_name=names[0])
        for name in names[1:]:
            wrapped.add_adapter(name, settings)
        wrapped.eval()
        return lambda: self._generated(wrapped, len(names), adapter_names=list(names))


@contextmanager
def threads_of(config: ServingConfig) -> Iterator[int]:
    """Within this torch computes by so many threads; yields how many."""
    before = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _prompts(model: PreTrainedModel, config: ServingConfig) -> list[list[int]]:
    """Any tokens, other ones for every prompt."""
    vocabulary = model.config.get_text_config().vocab_size
    source = torch.Generator().manual_seed(0)
    shape = (config.requests, config.prompt_tokens)
    drawn: list[list[int]] = torch.randint(min(5, vocabulary - 1), vocabulary, shape, generator=source).tolist()
    return drawn
