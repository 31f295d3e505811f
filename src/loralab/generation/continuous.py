"""New tokens through the engine: prompts are read once each, answers are written together, and one that ends makes room
for the next.

Shapes: V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from loralab.errors import NumericsError
from loralab.generation.config import GenerationConfig
from loralab.generation.ends import Ends
from loralab.generation.plain import NoRepeatInNewText
from loralab.generation.resident import ResidentEngine, free_bytes, may_copy_weights
from loralab.generation.sampling import sampled
from loralab.models.size import cache_bytes, weight_bytes
from loralab.progress import tracked
from loralab.serving.engine.beams import BeamSearch
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.hypotheses import BeamSettings
from loralab.serving.engine.request import Done, Request, Token

CHUNK = 256
"""Tokens of prompts that are read at once."""
MOST_TIMES = 4
"""Answers that are written at once, for each prompt that a batch may have: a step reads all weights, so that rows are
cheap; and the engine keeps nothing of a batch of prompts."""
SHARE_OF_WEIGHTS, SHARE_OF_FREE = 2, 4
"""But the cache of all is no larger, where a batch's own is not already, than one half of the weights on an
accelerator, and in the processor's memory than the weights and a quarter of what is free."""
WORTH_A_TRIAL = 512
"""New tokens from which on fused blocks gain more than the trial costs that they need."""
BEAMS_WORTH_A_TRIAL = 8192
"""The same of a beam search, whose beams are computed together."""


def generate_continuously(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    more_ends: Ends,
    ends: list[int],
    streamer: BaseStreamer | None = None,
    resident: ResidentEngine | None = None,
) -> list[list[int]]:
    """New token ids after each prompt's, up to one of `ends`; by the `resident` engine where there is one that can.

    Raises NumericsError where the model's scores of a token are no numbers.
    """
    is_ended = _ended_by_text(more_ends, tokenizer)
    if config.beams > 1:
        return _searched(model, prompts, config, frozenset(ends), is_ended)
    with _at_hand(resident, max(map(len, prompts)) + config.max_new_tokens) as (engine, adapter):
        writer = engine or Engine(model, _sizes(model, prompts, config))
        return _Writing(writer, adapter, prompts, config, frozenset(ends), is_ended, streamer).answers()


@contextmanager
def _at_hand(resident: ResidentEngine | None, tokens: int) -> Iterator[tuple[Engine | None, str | None]]:
    """The resident engine and whom its requests name, where it can answer."""
    if resident is None:
        yield None, None
        return
    with resident.turn(tokens) as found:
        yield found or (None, None)


# -- a token after the other ------------------------------------------------------------------------------------------


class _Writing:
    """The answers to some prompts, as they come out of an engine."""

    def __init__(
        self,
        engine: Engine,
        adapter: str | None,
        prompts: Sequence[list[int]],
        config: GenerationConfig,
        ends: frozenset[int],
        is_ended: Callable[[Sequence[int]], bool] | None,
        streamer: BaseStreamer | None,
    ) -> None:
        self._is_ended, self._streamer = is_ended, streamer
        self._answers: list[list[int]] = [[] for _ in prompts]
        self._numbers = {
            Request(
                prompt=tuple(ids),
                max_new_tokens=config.max_new_tokens,
                adapter=adapter,
                ends=ends,
                pick=_picker(config, number),
            ): number
            for number, ids in enumerate(prompts)
        }
        self._engine = engine
        self._over: set[Request] = set()

    def answers(self) -> list[list[int]]:
        """All of them, when they are written."""
        for request in self._numbers:
            self._engine.submit(request)
        if self._streamer is not None:
            self._streamer.put(torch.tensor([next(iter(self._numbers)).prompt]))  # type: ignore[no-untyped-call]
        ended = self._ended()
        for _ in tracked(self._answers, "texts"):
            next(ended)
        if self._streamer is not None:
            self._streamer.end()  # type: ignore[no-untyped-call]
        return self._answers

    def _ended(self) -> Iterator[Request]:
        """The requests, as they end."""
        for event in self._engine.run():
            if isinstance(event, Done):
                self._refuse_failed(event)
                yield event.request
            elif event.request not in self._over:
                self._take(event)

    def _take(self, token: Token) -> None:
        answer = self._answers[self._numbers[token.request]]
        answer.append(token.id)
        if self._streamer is not None:
            self._streamer.put(torch.tensor([token.id]))  # type: ignore[no-untyped-call]
        if self._is_ended is not None and self._is_ended(answer):
            self._over.add(token.request)
            self._engine.cancel(token.request)

    def _refuse_failed(self, done: Done) -> None:
        if done.reason == "failed":
            number = self._numbers[done.request]
            raise NumericsError(
                f"prompt {number + 1}: the model's scores of token {len(self._answers[number]) + 1} are not finite"
            )


def _picker(config: GenerationConfig, number: int) -> Callable[[Tensor], int] | None:
    """Chooses the tokens of a prompt as its settings say; None where it is the likeliest."""
    processors = LogitsProcessorList()
    if config.no_repeat_ngram:
        processors.append(NoRepeatInNewText(config.no_repeat_ngram, 0))
    processors.extend(sampled(config, [number]))
    if not processors:
        return None

    picked: list[int] = []

    def pick(scores_V: Tensor) -> int:
        ids_1T = torch.tensor([picked], dtype=torch.long, device=scores_V.device)
        picked.append(int(processors(ids_1T, scores_V[None]).argmax()))  # type: ignore[arg-type]
        return picked[-1]

    return pick


def _sizes(model: PreTrainedModel, prompts: Sequence[list[int]], config: GenerationConfig) -> EngineConfig:
    """As many rows as pay and fit, and no more columns than the longest text has."""
    length = max(map(len, prompts)) + config.max_new_tokens
    fitting = _room(model) // max(1, length * cache_bytes(model))
    rows = min(len(prompts), max(config.batch_size, min(MOST_TIMES * config.batch_size, fitting)))
    return EngineConfig(
        rows=rows,
        length=length,
        chunk=CHUNK,
        reading=sum(map(len, prompts)),
        fused=len(prompts) * config.max_new_tokens >= WORTH_A_TRIAL,
        pack=may_copy_weights(model),
    )


def _room(model: PreTrainedModel) -> int:
    """Bytes that the cache of more answers than a batch has may take."""
    weights = weight_bytes(model)
    if model.device.type != "cpu":
        return weights // SHARE_OF_WEIGHTS
    return min(weights, free_bytes() // SHARE_OF_FREE)


# -- beams ------------------------------------------------------------------------------------------------------------


def _searched(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    ends: frozenset[int],
    is_ended: Callable[[Sequence[int]], bool] | None,
) -> list[list[int]]:
    """The best hypothesis of each prompt, without what ended it."""
    settings = BeamSettings(
        beams=config.beams,
        max_new_tokens=config.max_new_tokens,
        length_penalty=config.length_penalty,
        no_repeat_ngram=config.no_repeat_ngram,
        ends=ends,
        is_ended=is_ended,
    )
    answers: list[list[int]] = [[] for _ in prompts]
    steps = len(prompts) * config.beams * config.max_new_tokens
    search = BeamSearch(
        model, settings, config.batch_size, fused=steps >= BEAMS_WORTH_A_TRIAL, pack=may_copy_weights(model)
    )
    found = search.run(prompts)
    for _ in tracked(prompts, "texts"):
        best = next(found)
        answers[best.number] = best.ids[:-1] if best.ids[-1] in ends else best.ids
    return answers


def _ended_by_text(ends: Ends, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], bool] | None:
    """Whether new tokens hold one of the ending texts; None where there are none."""
    if not ends.texts:
        return None
    (criterion,) = ends.criteria(tokenizer, 0)
    return lambda ids: bool(criterion(torch.tensor([ids]), torch.empty(0))[0])
