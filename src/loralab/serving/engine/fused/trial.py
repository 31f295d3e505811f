"""Which decoder a model gets: the fused one where, on a cache full of numbers, it computes what the model computes.

What a layer looks back to and how it turns its heads is watched in a step of the model's own, at the largest length
that the engine serves, so that a window or a rotation that shows only there is seen.

Shapes: R rows, T tokens, V vocabulary, P positions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from loralab.core.rows.call import with_cache
from loralab.errors import AdapterStateError
from loralab.nn.mode import evaluating
from loralab.nn.trial import UNRUNNABLE
from loralab.serving.engine.bank import FactorBank, Pairs
from loralab.serving.engine.cache import RowCache, keys_and_values
from loralab.serving.engine.decoder import Chunk, Decoder, PlainDecoder
from loralab.serving.engine.fused.agreement import takes_the_same, walk_of
from loralab.serving.engine.fused.anatomy import Anatomy, UnknownAnatomyError, anatomy_of
from loralab.serving.engine.fused.attention import Rotation
from loralab.serving.engine.fused.block import Means, Sight
from loralab.serving.engine.fused.decoder import FusedDecoder
from loralab.serving.engine.fused.products import packing_pays
from loralab.serving.engine.low_rank import speaking_pairs
from loralab.serving.engine.native.kernels import Kernels, kernels_for

STEPS = 2


@dataclass(frozen=True)
class Numbers:
    """Texts of which a cache knows any numbers in the place of keys and values."""

    shapes: Sequence[tuple[int, int]]
    """Heads and their width in every layer."""
    like: Tensor

    @classmethod
    def shaped_as(cls, model: PreTrainedModel) -> "Numbers":
        """As the model's own of two tokens are."""
        read = DynamicCache()
        model(input_ids=torch.tensor([[1, 2]], device=model.device), use_cache=True, **with_cache(model, read))
        keys = [keys_and_values(layer)[0] for layer in read.layers]  # type: ignore[arg-type]
        return cls([(each.shape[1], each.shape[3]) for each in keys], keys[0])

    def text(self, tokens: int) -> DynamicCache:
        """Of so many tokens, the same each time."""
        source, drawn = torch.Generator().manual_seed(tokens), DynamicCache()
        for number, (heads, width) in enumerate(self.shapes if tokens else ()):
            keys, values = torch.randn(2, 1, heads, tokens, width, generator=source).to(self.like)
            drawn.update(keys, values, number)
        return drawn

    def rows(self, length: int) -> RowCache:
        """Two rows, one that fills the length but for the steps to come, one of a few tokens."""
        cache = RowCache(2, length + STEPS)
        for tokens in (max(1, length - STEPS), max(1, min(3, length - STEPS))):
            cache.join(self.text(tokens).layers)  # type: ignore[arg-type]
        return cache


@dataclass
class Watched:
    """What the attention of every layer was given, and the calls of the rotary module that made it."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    rotations: list[tuple[tuple[Any, ...], dict[str, Any], tuple[Tensor, Tensor]]] = field(default_factory=list)
    tables: dict[int, Rotation] = field(default_factory=dict)
    """By the number of the call."""
    rotary: nn.Module | None = None


@torch.inference_mode()
def decoder_for(model: PreTrainedModel, rows: int, length: int, pack: bool = True, compile: bool = True) -> Decoder:
    """The quickest decoder of this model that computes what the model does, for so many rows and tokens.

    With `pack` the weights are copied into a quicker layout where there is one; with `compile` kernels are compiled
    where there is a compiler, and are there when this returns.
    """
    try:
        anatomy = anatomy_of(model)
        with evaluating(model):
            own, numbers = _own_pairs(model, anatomy), Numbers.shaped_as(model)
            seen = _watched(model, anatomy, numbers.rows(length))
            for kernels in _ways(anatomy, compile):
                decoder = _fused(model, anatomy, seen, length, _means(model, anatomy, rows, pack, kernels))
                decoder.answer_by_default(own)
                if _agrees(model, anatomy, decoder, numbers, length):
                    return decoder
        return PlainDecoder(model, "a trial of fused ones differed")
    except UnknownAnatomyError as unknown:
        return PlainDecoder(model, str(unknown))
    except AdapterStateError as problem:
        return PlainDecoder(model, str(problem))
    except UNRUNNABLE as error:
        return PlainDecoder(model, f"fused ones could not be tried: {error}")


def _own_pairs(model: PreTrainedModel, anatomy: Anatomy) -> Pairs:
    """Of the adapters that speak on the model. UnknownAnatomyError where they are on other modules too."""
    pairs = speaking_pairs(model)
    elsewhere = pairs.keys() - {path for linears in anatomy.dense for path in linears.paths}
    if elsewhere:
        raise UnknownAnatomyError(f"an adapter is on {min(elsewhere)}")
    return pairs


def _ways(anatomy: Anatomy, compile: bool) -> list[Kernels | str]:
    """With compiled kernels where there are any, and without them."""
    if not compile:
        return ["they were not asked for"]
    kernels = kernels_for(anatomy.head.modules[0].weight)
    return [kernels] if isinstance(kernels, str) else [kernels, "a trial of them differed"]


def _means(model: PreTrainedModel, anatomy: Anatomy, rows: int, pack: bool, kernels: Kernels | str) -> Means:
    pays = pack and packing_pays((*anatomy.blocks[0].gate_up.modules,), max(2, rows))
    low_rank = kernels.add_low_rank if isinstance(kernels, Kernels) else None
    bank = FactorBank(model, anatomy.together, hooked=False, kernel=low_rank)
    return Means(bank, kernels, max(2, rows) if pays else None)


def _fused(model: PreTrainedModel, anatomy: Anatomy, seen: Watched, length: int, means: Means) -> FusedDecoder:
    return FusedDecoder(anatomy, [_sight(each, seen, length) for each in seen.layers], _finish(model), means)


# -- what a step of the model's own shows ------------------------------------------------------------------------------


def _watched(model: PreTrainedModel, anatomy: Anatomy, full: RowCache) -> Watched:
    """A step of the model's own at the end of a full cache."""
    watched = Watched(rotary=anatomy.rotary)
    with _watching(anatomy, watched):
        PlainDecoder(model, "").logits([1, 2], [None, None], full)
    return watched


@contextmanager
def _watching(anatomy: Anatomy, watched: Watched) -> Iterator[None]:
    def given(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watched.layers.append(kwargs)

    def turned(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        watched.rotations.append((args, kwargs, output))

    handles = [b.attention.register_forward_pre_hook(given, with_kwargs=True) for b in anatomy.blocks]
    handles.append(anatomy.rotary.register_forward_hook(turned, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sight(given: dict[str, Any], watched: Watched, length: int) -> Sight:
    """What a layer was given in words of our own."""
    return Sight(_rotation(given.get("position_embeddings"), watched, length), _window(given.get("attention_mask")))


def _rotation(given: Any, watched: Watched, length: int) -> Rotation:
    """The table behind the cos and sin that a layer was given."""
    for number, (args, kwargs, output) in enumerate(watched.rotations):
        if isinstance(given, tuple) and given[0] is output[0]:
            if number not in watched.tables:
                watched.tables[number] = _table(watched.rotary, args, kwargs, length)
            return watched.tables[number]
    raise UnknownAnatomyError("its layers turn queries and keys in a way of their own")


def _table(rotary: Any, args: tuple[Any, ...], kwargs: dict[str, Any], length: int) -> Rotation:
    """cos and sin of every position, asked for as the model asked for some."""

    def of(positions: int) -> tuple[Tensor, Tensor]:
        places_1P = torch.arange(positions, device=args[0].device)[None]
        if "position_ids" in kwargs:
            found = rotary(*args, **{**kwargs, "position_ids": places_1P})
        else:
            found = rotary(args[0], places_1P, *args[2:], **kwargs)
        return found[0][0], found[1][0]

    (cos_PU, sin_PU), (short_cos, _) = of(length), of(2)
    if not torch.equal(cos_PU[:2], short_cos):
        raise UnknownAnatomyError("its rotation depends on the length of the text")
    return Rotation.of(cos_PU, sin_PU)


def _window(mask: Any) -> int | None:
    """How many of the newest tokens the first row, which fills the cache, attends to; None for all."""
    if mask is None:
        return None
    row = mask[0, 0, -1]
    allowed = row if row.dtype == torch.bool else row == 0
    count = int(allowed.sum())
    if not bool(allowed[-count:].all()):
        raise UnknownAnatomyError("its layers attend to other tokens than the newest ones")
    return None if count == len(allowed) else count


def _finish(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """What the model is said to do with its head's output."""
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return (lambda logits: logits) if cap is None else (lambda logits: logits.div_(cap).tanh_().mul_(cap))


# -- the trial ---------------------------------------------------------------------------------------------------------


def _agrees(model: PreTrainedModel, anatomy: Anatomy, decoder: FusedDecoder, numbers: Numbers, length: int) -> bool:
    """Whether both take the same steps, near the largest length and at the beginning of a text."""
    return _read_alike(model, anatomy, decoder, numbers, length) and all(
        _step_alike(model, anatomy, decoder, numbers.rows(tokens)) for tokens in (length, min(length, 6))
    )


def _read_alike(model: PreTrainedModel, anatomy: Anatomy, decoder: FusedDecoder, numbers: Numbers, length: int) -> bool:
    plain, ids = PlainDecoder(model, ""), [(7 * place + 3) % 50 for place in range(min(8, length))]
    for known in (0, length - len(ids)):
        theirs, ours = (Chunk(ids, None, numbers.text(known)) for _ in range(2))
        walk = walk_of(anatomy, partial(plain.read, [theirs]))
        if not takes_the_same(decoder, decoder.chunks_step([ours]), ids, walk):
            return False
    return True


def _step_alike(model: PreTrainedModel, anatomy: Anatomy, decoder: FusedDecoder, cache: RowCache) -> bool:
    plain, adapters = PlainDecoder(model, ""), [None, None]
    for step in range(STEPS):
        ids = [(7 * step + 3) % 50, (5 * step + 1) % 50]
        walk = walk_of(anatomy, partial(plain.logits, ids, adapters, cache))
        if not takes_the_same(decoder, decoder.rows_step([0, 1], adapters, cache), ids, walk):
            return False
        cache.advance()
    return True
