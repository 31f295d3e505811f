"""What becomes of tensors that adapters trained in full, when the adapters are combined.

A head is fresh on every base, so it is no change of anything and no weight scales it: one is kept as it was trained.
A bias is the base's plus a change, and changes add up as those of weights do.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter
from loralab.core.updates.update import Update, tensor_of, wide
from loralab.errors import SpecError


def kept_head(path: str, chosen: Mapping[str, Adapter]) -> tuple[Update, str]:
    """The head at this path, and what to tell of it. SpecError where two adapters trained different ones."""
    owners = {name: adapter.updates[path] for name, adapter in chosen.items() if path in adapter.updates}
    first, *others = owners
    different = [name for name in others if not _is_same(owners[first], owners[name])]
    if different:
        raise SpecError(
            f"combine() was asked for adapters that train {path} in full, and '{first}' and '{different[0]}' hold "
            "different copies of it, which have no sum; combine adapters of one head, or leave one of these out"
        )
    return owners[first], f"{path} is as '{first}' trained it: what is trained in full is kept whole, and not weighted"


def summed_biases(path: str, base: nn.Module, weighted: Sequence[tuple[float, Update]]) -> dict[str, Tensor]:
    """Tensor name → b + Σ w·(b' − b) over the adapters that train it. SpecError for anything but biases."""
    names = dict.fromkeys(name for _, update in weighted for name in update.replacements())
    full = [name for name in names if not name.endswith("bias")]
    if full:
        raise SpecError(
            f"combine() was asked for adapters that train {path} in full ({', '.join(full)}) beside their head; only "
            "low-rank updates and biases have a sum"
        )
    return {name: _summed(tensor_of(base, name), name, weighted) for name in names}


@torch.no_grad()
def _summed(own: Tensor, name: str, weighted: Sequence[tuple[float, Update]]) -> Tensor:
    total = own.to(wide(own), copy=True)
    for weight, update in weighted:
        trained = update.replacements().get(name)
        if trained is not None:
            total += weight * (trained - own)
    return total


def _is_same(one: Update, other: Update) -> bool:
    ours, theirs = one.replacements(), other.replacements()
    no_more = not one.is_insertion and not other.is_insertion
    return no_more and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
