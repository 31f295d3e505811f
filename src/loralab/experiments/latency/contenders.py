"""Who is timed: the base and what each method makes of it, all on one model object."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from loralab.core.adapter import Adapter
from loralab.core.attach import attach, detach
from loralab.core.merge import merge, unmerge
from loralab.core.plan import Method
from loralab.methods.bottleneck import BottleneckAdapter
from loralab.methods.lora import LoRA

BASE, BASE_AGAIN = "base", "base-again"
LORA_MERGED, LORA_DEPLOYED, LORA_LIVE = "lora-merged", "lora-deployed", "lora-live"
HOULSBY, LIN = "adapter-h", "adapter-l"

Standing = Callable[[nn.Module, Method], AbstractContextManager[int]]
"""The model with a method on it for as long as a block lasts; gives the number of parameters that the method trains."""


@contextmanager
def live(model: nn.Module, spec: Method) -> Iterator[int]:
    """Computed beside the base, in the base's dtype as when it is served. Fresh adapters compute everything too."""
    adapter = attach(model, spec)
    dtype = next(model.parameters()).dtype
    for parameter in adapter.parameters():
        parameter.data = parameter.data.to(dtype)
    try:
        yield _count(adapter)
    finally:
        detach(model)


@contextmanager
def merged(model: nn.Module, spec: Method) -> Iterator[int]:
    """Folded into the base's weights, and still attached: it can be unmerged."""
    adapter = _with_noise(attach(model, spec))
    count = _count(adapter)
    merge(model)
    try:
        yield count
    finally:
        unmerge(model)
        detach(model)


@contextmanager
def deployed(model: nn.Module, spec: Method) -> Iterator[int]:
    """Folded into the base's weights and detached: merged weights in plain modules, as `loralab merge` writes them."""
    originals = [(module, dict(module._parameters)) for module in model.modules()]
    count = _count(_with_noise(attach(model, spec)))
    merge(model)
    detach(model, keep_merged=True)
    try:
        yield count
    finally:
        for module, parameters in originals:
            module._parameters.update(parameters)


@dataclass(frozen=True)
class Contender:
    """One row of the table: `size` is the rank or the bottleneck; without a specification it is the base alone."""

    name: str
    size: int = 0
    spec: Method | None = field(default=None, compare=False)
    form: Standing = field(default=live, compare=False)

    def standing(self, model: nn.Module) -> AbstractContextManager[int]:
        """The model as this contender for as long as a block lasts; afterwards its base is back, bit for bit."""
        return nullcontext(0) if self.spec is None else self.form(model, self.spec)

    def __str__(self) -> str:
        return f"{self.name} {self.size}" if self.size else self.name


def contenders(rank: int, sizes: Sequence[int]) -> list[Contender]:
    """The table. The heads of classifiers are left as they are: they belong to no method."""
    lora = LoRA(rank=rank, modules_to_save=())
    bottlenecks = [
        Contender(name, size, BottleneckAdapter(style, size=size, modules_to_save=()))
        for name, style in ((HOULSBY, "houlsby"), (LIN, "lin"))
        for size in dict.fromkeys(sizes)
    ]
    return [
        Contender(BASE),
        Contender(LORA_MERGED, rank, lora, merged),
        Contender(BASE_AGAIN),
        Contender(LORA_DEPLOYED, rank, lora, deployed),
        Contender(LORA_LIVE, rank, lora, live),
        *bottlenecks,
    ]


def _with_noise(adapter: Adapter) -> Adapter:
    """LoRA's B starts at zero; with noise in it merging changes the weights."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.02)
    return adapter


def _count(adapter: Adapter) -> int:
    return sum(parameter.numel() for parameter in adapter.parameters())
