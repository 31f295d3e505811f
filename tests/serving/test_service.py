"""The engine's thread: which content answers whom while adapters come and go."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event as Flag

import pytest

from loralab.serving.engine.engine import EngineConfig
from loralab.serving.engine.request import Done, Event, Request, Token
from loralab.serving.registry import Registry, Version
from loralab.serving.service import Service
from serving.causal import LENGTH, causal, prompts
from serving.test_registry import write

PROMPT, NEW = tuple(prompts(9)[0]), 40
NAMES = ("one", "two", "three", "four")


class Listener:
    """One who asks."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.reason, self._begun, self._ended = "", Flag(), Flag()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Token):
            self.tokens.append(event.id)
            self._begun.set()
        else:
            self.reason = event.reason
            self._ended.set()

    def begun(self) -> "Listener":
        assert self._begun.wait(120)
        return self

    def ended(self) -> "Listener":
        assert self._ended.wait(120)
        return self


class Served:
    """A service, and adapters from a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for seed, name in enumerate(NAMES):
            self.write(name, seed)
        model = causal("llama")
        self.service = Service(model, EngineConfig(rows=4, chunk=8, length=LENGTH, prefix_bytes=2**20, prefix_block=4))
        self.registry = Registry(model, folder, evicted=self.service.release)

    def write(self, name: str, seed: int) -> None:
        """An adapter's folder, trained on a copy of the base."""
        write(causal("llama"), self._folder / name, seed=seed)

    def ask(self, version: Version | None, new: int = NEW) -> Listener:
        listener = Listener()
        request = Request(prompt=PROMPT, max_new_tokens=new, adapter=None if version is None else version.key)
        self.service.ask(request, listener, version)
        return listener

    def answered(self, version: Version | None) -> list[int]:
        return self.ask(version).ended().tokens

    def settle(self) -> None:
        """Until all orders that were given are done."""
        self.ask(None, new=1).ended()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.service.close()
    found.registry.close()


def test_a_name_that_is_loaded_anew_leaves_running_answers_alone(served: Served) -> None:
    old = served.registry.version("one")
    before = served.answered(old)
    running = served.ask(old).begun()
    served.write("one", seed=7)
    new = served.registry.add("one", "one")
    after = served.answered(new)  # though the prompt's beginning is known, under the old content
    assert running.ended().tokens == before != after
    served.settle()
    assert served.service.engine.bank.keys == [new.key]


def test_one_that_is_unloaded_before_its_request_comes_is_answered_and_leaves(served: Served) -> None:
    version = served.registry.version("one")
    before = served.answered(version)
    served.registry.remove("one")
    served.settle()
    assert served.service.engine.bank.memory_bytes == 0
    assert served.answered(version) == before
    served.settle()
    assert (served.service.engine.bank.memory_bytes, served.service.engine.held) == (0, [])


def test_unloading_while_many_answers_to_one_prompt_are_written(served: Served) -> None:
    engine, version = served.service.engine, served.registry.version("one")
    served.settle()
    of_base = engine.prefixes.memory_bytes
    alone = served.answered(version)
    assert engine.prefixes.memory_bytes > of_base
    many = [served.ask(version) for _ in range(6)]
    many[0].begun()
    served.registry.remove("one")
    assert [each.ended().tokens for each in many] == [alone] * 6
    served.settle()
    assert (engine.held, engine.bank.memory_bytes, engine.prefixes.memory_bytes) == ([], 0, of_base)


def test_unloading_frees_what_it_held(served: Served) -> None:
    engine, kept = served.service.engine, served.registry.version(NAMES[-1])
    before = served.answered(kept)
    alone = engine.bank.memory_bytes
    for name in NAMES[:-1]:
        served.answered(served.registry.version(name))
    assert engine.bank.memory_bytes >= len(NAMES) * alone
    for name in NAMES[:-1]:
        served.registry.remove(name)
    served.settle()
    assert (engine.held, engine.bank.memory_bytes) == ([kept.key], alone)
    assert served.registry.memory_bytes == kept.memory_bytes
    assert served.answered(kept) == before


def test_what_the_engine_refuses_ends_alone(served: Served) -> None:
    listener = Listener()
    served.service.ask(Request(prompt=PROMPT, max_new_tokens=10**6), listener)
    assert listener.ended().reason == "failed"
    assert len(served.answered(None)) == NEW


def test_a_listener_that_fails_fails_alone(served: Served) -> None:
    def fails(event: Event) -> None:
        raise OSError("gone" if isinstance(event, Done) else "going")

    served.service.ask(Request(prompt=PROMPT, max_new_tokens=3), fails)
    assert len(served.answered(None)) == NEW
