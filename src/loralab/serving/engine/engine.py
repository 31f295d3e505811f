"""The engine: requests come in, tokens come out, and every step serves all rows that decode.

Continuous batching: a request that has been read joins the rows between two steps, one that is done leaves them. Long
prompts are read in chunks, about one chunk's tokens between two steps, so that they hold up the others by no more.
Short prompts are read together where that changes no bit of any, and no row's products are taken by another kernel when
it is alone (see `decoder.py`), so that an answer does not depend on who else is there.

Shapes: R rows, T tokens of a chunk, V vocabulary.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from loralab.errors import SpecError
from loralab.models.context import context_length
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.cache import RowCache
from loralab.serving.engine.decoder import Chunk, Decoder, PlainDecoder
from loralab.serving.engine.fused.trial import decoder_for
from loralab.serving.engine.prefixes import BLOCK, PrefixStore, end_of_chunk
from loralab.serving.engine.request import Done, Event, Reason, Request, Token
from loralab.serving.engine.sampling import Chooser, chosen

PromptKey = tuple[str | None, tuple[int, ...]]
"""Adapter and tokens."""
WANTED_AGAIN = 4
"""Prompts that are kept for others that wait with the same."""
LONGEST = 2048
"""Tokens of prompt and answer together, where nobody says how many and the model's context is longer."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The sizes of an engine."""

    rows: int = 16
    """Answers that are written at once."""
    length: int | None = None
    """Tokens of prompt and answer together; without it the model's context, 2,048 at most."""
    chunk: int = 256
    """Tokens of prompts that are read at once."""
    reading: int | None = None
    """Tokens of prompts that are read between two steps; without it a chunk's worth, so that no answer waits long."""
    prefix_bytes: int = 0
    """Of keys and values that are kept of the beginnings of prompts; 0: none."""
    prefix_block: int = BLOCK
    """Tokens that a prompt is read by, and that a beginning consists of, where any are kept."""
    fused: bool = True
    """Decode a known family by fused blocks, where a trial shows that they compute the same."""
    pack: bool = True
    """Keep a second copy of the weights in a layout that is quicker for few rows, where there is one."""
    compile: bool = True
    """Compile what fused blocks compute between the products of a step, where there is a C++ compiler."""


@dataclass(eq=False)
class Writing:
    """A request that is being answered."""

    request: Request
    chooser: Chooser
    cache: DynamicCache = field(default_factory=DynamicCache)
    """Keys and values of the prompt, until the row joins the others."""
    read: int = 0
    """Tokens of the prompt that have been read."""
    known: int = 0
    """Tokens of it that need not be read, for they were before."""
    last: int = 0
    """The newest token, which has not been read yet."""
    written: int = 0


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt that has been read to its end: the cache, which has keys and values, and the logits behind it."""

    cache: DynamicCache
    logits_V: Tensor


class Engine:
    """Answers requests for one model, whose weights and modules stay as they are. Not for several threads at once."""

    def __init__(self, model: PreTrainedModel, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self.length = _length(model, self.config.length)
        self._decoder = self._chosen_decoder(model)
        self.bank = self._decoder.bank
        self._cache = RowCache(max(2, self.config.rows), self.length + min(self.length, self.config.chunk))
        block = min(self.config.prefix_block, self.config.chunk)
        self.prefixes = PrefixStore(self.config.prefix_bytes, block)
        self._block = self.prefixes.block if self.prefixes.capacity else self.config.chunk
        self._waiting: OrderedDict[str | None, deque[Request]] = OrderedDict()
        self._asked: Counter[PromptKey] = Counter()  # of those that wait
        self._reading: list[Writing] = []
        self._wanted_again: dict[PromptKey, ReadPrompt] = {}
        self._rows: list[Writing] = []
        self._tokens_read = 0
        self._pairs: dict[str, Pairs] = {}
        self._released: set[str] = set()
        self._cancelled: set[Request] = set()

    def _chosen_decoder(self, model: PreTrainedModel) -> Decoder:
        if not self.config.fused:
            return PlainDecoder(model, "nothing else was asked for")
        return decoder_for(model, self.config.rows, self.length, self.config.pack, self.config.compile)

    @property
    def how(self) -> str:
        """A sentence: how it decodes, and why."""
        return self._decoder.how

    @property
    def is_compiled(self) -> bool:
        """Whether compiled kernels run between the products of its steps."""
        return self._decoder.is_compiled

    # -- adapters -------------------------------------------------------------------------------------------------

    def hold(self, key: str, pairs: Pairs) -> None:
        """Have an adapter at hand under a key (a hash of its content): its pairs A, s·B by module path."""
        self._pairs[key] = pairs
        self._released.discard(key)

    @property
    def held(self) -> list[str]:
        """The adapters at hand."""
        return list(self._pairs)

    def release(self, key: str) -> None:
        """Let go of an adapter, at once or with the last of its requests."""
        self._released.add(key)
        self._let_go()

    def _let_go(self) -> None:
        """Drop the adapters that were released and that no request needs any more."""
        for key in [key for key in self._released if key not in self._needed and key not in self._waiting]:
            self._released.discard(key)
            self._pairs.pop(key, None)
            self.prefixes.forget(key)
            if key in self.bank:
                self.bank.remove(key)

    @property
    def _needed(self) -> set[str | None]:
        """The adapters of the requests that have been begun."""
        return {row.request.adapter for row in (*self._rows, *self._reading)}

    # -- requests -------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._rows or self._reading or self._waiting)

    @property
    def waiting(self) -> int:
        """Requests that have not been begun."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._rows)

    def submit(self, request: Request) -> None:
        """Take a request up. SpecError, before anything is computed, for one that cannot be answered."""
        self.check(request)
        if request.adapter is not None and request.adapter not in self._pairs.keys() - self._released:
            raise SpecError(f"adapter {request.adapter!r} is not held by the engine")
        self._waiting.setdefault(request.adapter, deque()).append(request)
        self._asked[_key(request)] += 1

    def check(self, request: Request) -> None:
        """Raise SpecError where the request does not fit into the engine."""
        asked, most = len(request.prompt), self.length
        if not request.prompt:
            raise SpecError("the prompt has no tokens: give at least one")
        if request.max_new_tokens < 1:
            raise SpecError(f"{request.max_new_tokens} new tokens were asked for: ask for at least 1")
        if asked + request.max_new_tokens > most:
            raise SpecError(
                f"{asked} tokens of prompt and {request.max_new_tokens} new ones are {asked + request.max_new_tokens}; "
                f"at most {most} fit: shorten the prompt or ask for fewer"
            )

    def cancel(self, request: Request) -> None:
        """Nobody waits for this answer any more: it ends at the next step."""
        self._cancelled.add(request)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Read of the prompts, write a token of every answer, and say what came of it."""
        events = [*self._dismissed(), *self._prompts_read(), *self._tokens_written()]
        if self._wanted_again:
            self._keep_wanted()
        self._let_go()
        return events

    def start_over(self) -> list[Request]:
        """Forget all that was begun, after a step that failed; the requests that get no answer now."""
        lost = [row.request for row in (*self._rows, *self._reading)]
        self._rows, self._reading = [], []
        self._wanted_again.clear()
        self._cache = RowCache(self._cache.rows, self._cache.columns)
        return lost

    def abandon(self) -> None:
        """Forget all requests."""
        if not self.is_idle:
            self.start_over()
            self._waiting.clear()
            self._asked.clear()

    def run(self) -> Iterator[Event]:
        """All events until there is nothing to do."""
        while not self.is_idle:
            yield from self.step()

    # -- cancelling -----------------------------------------------------------------------------------------------

    def _dismissed(self) -> Iterator[Event]:
        """Free what nobody waits for."""
        for request in list(self._cancelled):
            self._cancelled.discard(request)
            queue = self._waiting.get(request.adapter, deque())
            row = next((row for row in (*self._rows, *self._reading) if row.request is request), None)
            if request in queue:
                self._leave_queue(request)
                yield Done(request, "cancelled")
            elif row in self._reading:
                self._reading.remove(row)
                yield Done(request, "cancelled")
            elif row is not None:
                yield self._end(row, "cancelled")

    # -- prompts --------------------------------------------------------------------------------------------------

    def _prompts_read(self) -> Iterator[Event]:
        """Chunks of prompts, until as many tokens have been read as may be between two steps."""
        enough = self._tokens_read + (self.config.reading or self.config.chunk)
        while self._tokens_read < enough:
            yield from self._taken_up()
            if not self._reading:
                return
            yield from self._chunks_read()

    def _taken_up(self) -> Iterator[Event]:
        """Requests, while a chunk has room for more tokens: to be read, or begun with what was read for another."""
        while sum(len(self._next_tokens(row)) for row in self._reading) < self.config.chunk:
            row = self._next()
            if row is None:
                return
            before = self._wanted_again.get(_key(row.request))
            if before is None:
                row.read = row.known = self.prefixes.begin(row.request.adapter, row.request.prompt, row.cache)
                self._reading.append(row)
                self._have_columns(row.request.adapter)
            else:
                row.known = len(row.request.prompt)
                yield from self._begun(row, before)

    def _chunks_read(self) -> Iterator[Event]:
        """Read on in several prompts; the answers' first tokens, where a prompt has been read to its end."""
        read = self._fitting()
        chunks = [Chunk(self._next_tokens(row), row.request.adapter, row.cache) for row in read]
        logits_KV = self._decoder.read(chunks)
        for row, chunk, logits_V in zip(read, chunks, logits_KV, strict=True):
            row.read += len(chunk.ids)
            self._tokens_read += len(chunk.ids)
            if row.read == len(row.request.prompt):
                self._reading.remove(row)
                self.prefixes.keep(row.request.adapter, row.request.prompt, row.cache)
                yield from self._begun(row, ReadPrompt(row.cache, logits_V))

    def _fitting(self) -> list[Writing]:
        """Those that are being read, the first first, while their chunks fit together; one at least."""
        tokens = accumulate(len(self._next_tokens(row)) for row in self._reading)
        fit = sum(1 for up_to in tokens if up_to <= self.config.chunk)
        return self._reading[: max(1, fit)]

    def _next_tokens(self, row: Writing) -> tuple[int, ...]:
        """The chunk of a prompt that is read next."""
        prompt = row.request.prompt
        return prompt[row.read : end_of_chunk(row.read, len(prompt), self._block)]

    def _beginning(self, request: Request) -> PromptKey:
        """What another prompt may have in common with this one that need not be read twice."""
        return request.adapter, request.prompt[: self._block] if self.prefixes.capacity else request.prompt

    def _begun(self, row: Writing, prompt: ReadPrompt) -> Iterator[Event]:
        """A row begins its answer."""
        key = _key(row.request)
        if self._asked[key]:
            self._wanted_again[key] = prompt
        self._have_columns(row.request.adapter)
        self._join(row, prompt.cache)
        yield from self._written([row], prompt.logits_V[None])

    def _keep_wanted(self) -> None:
        """Of the prompts that have been read, keep those with which another waits; a few, for each is large."""
        kept = [key for key in self._wanted_again if self._asked[key]][-WANTED_AGAIN:]
        self._wanted_again = {key: self._wanted_again[key] for key in kept}

    def _next(self) -> Writing | None:
        """The next request, the adapters in turn, where a row is free for it. One that begins as another that is being
        read waits for that one, and has then less to read."""
        begun = {self._beginning(row.request) for row in self._reading}
        ready = (name for name, queue in self._waiting.items() if self._beginning(queue[0]) not in begun)
        for adapter in ready if len(self._rows) + len(self._reading) < self.config.rows else ():
            request = self._waiting[adapter][0]
            self._waiting.move_to_end(adapter)
            self._leave_queue(request)
            return Writing(request, Chooser(request))
        return None

    def _leave_queue(self, request: Request) -> None:
        queue, key = self._waiting[request.adapter], _key(request)
        queue.remove(request)
        if not queue:
            del self._waiting[request.adapter]
        self._asked[key] -= 1
        if not self._asked[key]:
            del self._asked[key]

    def _join(self, row: Writing, prompt: DynamicCache) -> None:
        self._cache.join(prompt.layers)  # type: ignore[arg-type]
        row.cache = DynamicCache()
        self._rows.append(row)

    # -- answers --------------------------------------------------------------------------------------------------

    def _tokens_written(self) -> Iterator[Event]:
        """A token of every answer."""
        if not self._rows:
            return
        rows = list(self._rows)
        logits_RV = self._decoder.logits([row.last for row in rows], [row.request.adapter for row in rows], self._cache)
        self._cache.advance()
        yield from self._written(rows, logits_RV)

    def _written(self, rows: Sequence[Writing], logits_RV: Tensor) -> Iterator[Event]:
        """The tokens that follow, and the ends of answers where they are any."""
        for row, token in zip(rows, chosen([row.chooser for row in rows], logits_RV), strict=True):
            yield from self._answered(row, token)

    def _answered(self, row: Writing, token: Token | None) -> Iterator[Event]:
        if token is None:
            yield self._end(row, "failed")
            return
        if token.id in row.request.ends:
            yield self._end(row, "stop")
            return
        row.last, row.written = token.id, row.written + 1
        yield replace(token, known=row.known) if row.written == 1 and row.known else token
        if row.written == row.request.max_new_tokens:
            yield self._end(row, "length")

    def _end(self, row: Writing, reason: Reason) -> Done:
        number = self._rows.index(row)
        self._cache.leave(number)
        last = self._rows.pop()
        if last is not row:
            self._rows[number] = last
        return Done(row.request, reason)

    # -- columns --------------------------------------------------------------------------------------------------

    def _have_columns(self, adapter: str | None) -> None:
        """The adapter's factors in the bank, in the place of some that no row needs."""
        if adapter is not None and adapter not in self.bank:
            self._free_columns(self.config.rows - 1)
            self.bank.put(adapter, self._pairs[adapter])

    def _free_columns(self, keep: int) -> None:
        """Take adapters that no row needs out of the bank, the oldest first, until `keep` are left."""
        idle = [key for key in self.bank.keys if key not in self._needed]
        for key in idle[: max(0, len(self.bank.keys) - keep)]:
            self.bank.remove(key)


def _key(request: Request) -> PromptKey:
    return request.adapter, request.prompt


def _length(model: PreTrainedModel, asked: int | None) -> int:
    """Tokens of a request. SpecError for more than the model's context."""
    context = context_length(model)
    if asked is None:
        return min(context or LONGEST, LONGEST)
    if context is not None and asked > context:
        raise SpecError(f"length {asked}: the model's context is {context} tokens; choose at most that")
    return asked
