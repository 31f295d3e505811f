"""The server's test of itself, before it is ready: adapters answer together what each of them answers alone.

A batch that mixes the base and some adapters, each with a prompt of its own, is written greedily, then each alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event as Flag

from loralab.errors import LoralabError
from loralab.serving.engine.request import Event, Reason, Request, Token
from loralab.serving.registry import Registry, Version
from loralab.serving.service import Service

TRIED = 8
"""Adapters, the first by name: the test shall not hold the start up."""
PROMPT, NEW = 5, 3
"""Tokens of the shortest prompt, each next one longer by one, and of an answer."""


@dataclass
class Recital:
    """What an adapter, or the base, wrote."""

    who: str
    ids: list[int] = field(default_factory=list)
    reason: Reason | None = None
    ended: Flag = field(default_factory=Flag)

    def hear(self, event: Event) -> None:
        """From the engine's thread."""
        if isinstance(event, Token):
            self.ids.append(event.id)
        else:
            self.reason = event.reason
            self.ended.set()


def self_test(service: Service, registry: Registry, most: int, vocabulary: int) -> list[str]:
    """Sentences: what the base and the first `most` adapters did together, and which of them cannot be served."""
    versions, problems = _at_hand(registry, min(TRIED, most))
    if not versions:
        return problems
    if service.engine.length < PROMPT + len(versions) + NEW:
        return [*problems, f"no self-test: at most {service.engine.length} tokens fit into the engine"]
    readers = list(enumerate([None, *versions]))
    together = _answers(service, readers, vocabulary)
    alone = [answer for reader in readers for answer in _answers(service, [reader], vocabulary)]
    failed = [answer.who for answer in together if answer.reason == "failed"]
    differing = [one.who for one, other in zip(together, alone, strict=True) if one.ids != other.ids]
    return [*problems, *_sentences(failed, differing, len(versions))]


def _sentences(failed: Sequence[str], differing: Sequence[str], adapters: int) -> list[str]:
    found = []
    if failed:
        found.append(f"self-test: {', '.join(failed)} answered with scores that are not finite")
    if differing:
        found.append(
            f"self-test: {', '.join(differing)} answered otherwise beside others than alone, so that answers depend on "
            "who else asks; --rows 1 keeps them apart"
        )
    counted = "one adapter" if adapters == 1 else f"{adapters} adapters"
    return found or [f"self-test: the base and {counted} answered together what each answers alone"]


def _at_hand(registry: Registry, most: int) -> tuple[list[Version], list[str]]:
    """The first adapters, and why those of them that cannot be read cannot be."""
    versions, problems = [], []
    for name in registry.names()[:most]:
        try:
            versions.append(registry.version(name))
        except LoralabError as problem:
            problems.append(f"{name} cannot be served: {problem}")
    return versions, problems


def _answers(service: Service, readers: Sequence[tuple[int, Version | None]], vocabulary: int) -> list[Recital]:
    """The likeliest tokens behind a prompt of each reader's number, all asked for at once."""
    answers = []
    for number, reader in readers:
        answer = Recital("the base" if reader is None else f"adapter {reader.name}")
        ids = tuple((7 * place + 5 * number + 3) % min(vocabulary, 1000) for place in range(PROMPT + number))
        key = None if reader is None else reader.key
        service.ask(Request(prompt=ids, max_new_tokens=NEW, adapter=key), answer.hear, reader)
        answers.append(answer)
    for answer in answers:
        answer.ended.wait()
    return answers
