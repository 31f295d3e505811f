"""The layer that holds a base module, and the updates that named adapters bring to it.

The layer decides *which* update applies, from the model's one `Routing`; the update computes. It never changes a
weight: neither `forward` nor `train()` nor `eval()` does (merging is `merge.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.update import Update
from loralab.errors import AdapterStateError


@dataclass(frozen=True)
class Rows:
    """One adapter per sequence of a batch: sequence s is under the adapter `names[adapter_S[s]]` (None: the base)."""

    names: tuple[str | None, ...]
    adapter_S: Tensor

    @staticmethod
    def of(per_sequence: Sequence[str | None]) -> "Rows":
        """From one name per sequence."""
        names = tuple(dict.fromkeys(per_sequence))
        return Rows(names, torch.tensor([names.index(name) for name in per_sequence]))


@dataclass
class Routing:
    """Which adapter speaks, shared by all adapted layers of one model.

    `rows` takes precedence over `active`; `merged` is the adapter whose update the base weights already hold.
    """

    active: str | None = None
    rows: Rows | None = None
    merged: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether any layer may compute something else than its base's own forward."""
        return self.merged is None and (self.active is not None or self.rows is not None)


class AdaptedLayer(nn.Module):
    """A base module with the updates of any number of adapters, at most one of which applies to a sequence.

    Attributes that the layer does not have are the base's (`weight`, `in_features`, …), so that code which looks
    into a module keeps working. What it sees there is the *frozen* tensor, unless the active adapter replaces it in
    full: a parent that reads its child's weight (DeBERTa's relative positions) then computes with the trained one.
    """

    def __init__(self, base: nn.Module, routing: Routing) -> None:
        super().__init__()
        self.base = base
        self.routing = routing
        self.updates = nn.ModuleDict()
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(super().__getattr__("base"), name)
            return self._replacement(name, found) if isinstance(found, Tensor) else found

    def _replacement(self, name: str, frozen: Tensor) -> Tensor:
        """The trained copy of a tensor of the base, in its dtype, if the active adapter has one; else the tensor."""
        if self.routing.merged is not None or self.routing.rows is not None:
            return frozen
        update = self.update_of(self.routing.active)
        return frozen if update is None else update.as_read(name, frozen)

    # -- updates by adapter name ------------------------------------------------------------------------------

    def put(self, name: str, update: Update) -> None:
        """Add the update of the adapter called `name`."""
        self.updates[_key(name)] = update

    def drop(self, name: str) -> None:
        """Forget the update of the adapter called `name`."""
        del self.updates[_key(name)]

    def update_of(self, name: str | None) -> Update | None:
        """The update that this adapter brings to this layer, or None where it brings none."""
        if name is None or _key(name) not in self.updates:
            return None
        update = self.updates[_key(name)]
        assert isinstance(update, Update)
        return update

    def all_updates(self) -> list[Update]:
        """What all adapters bring to this layer."""
        return [update for update in self.updates.values() if isinstance(update, Update)]

    # -- the function -----------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base's output, under the active adapter's update or each row's own."""
        routing = self.routing
        if routing.merged is not None:
            return self._merged(*args, **kwargs)
        if routing.rows is not None:
            return self._by_row(routing.rows, args, kwargs)
        update = self.update_of(routing.active)
        return self.base(*args, **kwargs) if update is None else update(self.base, *args, **kwargs)

    def _merged(self, *args: Any, **kwargs: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            raise AdapterStateError(
                f"a training forward pass was asked of a model into which adapter '{self.routing.merged}' is merged; "
                "its own parameters would get no gradient: call unmerge(model) first, or model.eval()"
            )
        return self.base(*args, **kwargs)

    def _by_row(self, rows: Rows, args: Any, kwargs: Any) -> Any:
        updates = [self.update_of(name) for name in rows.names]
        present = [update for update in updates if update is not None]
        if not present:
            return self.base(*args, **kwargs)
        if len(updates) == 1:
            return present[0](self.base, *args, **kwargs)
        first = present[0]
        adapter_S = rows.adapter_S.to(next(first.parameters()).device)
        if not kwargs and len(args) == 1 and all(type(u) is type(first) and u.can_mix() for u in present):
            return first.mixed(self.base, updates, adapter_S, args[0])
        return self._split(first, updates, adapter_S, args, kwargs)

    def _split(self, guide: Update, updates: list[Update | None], adapter_S: Tensor, args: Any, kwargs: Any) -> Any:
        """Run the module once per adapter on that adapter's sequences and put the outputs back in order."""
        groups = [(adapter_S == k).nonzero().flatten() for k in range(len(updates))]
        outputs = []
        for update, group in zip(updates, groups, strict=True):
            some, named = guide.take_rows(self.base, args, kwargs, group, len(adapter_S))
            outputs.append(self.base(*some, **named) if update is None else update(self.base, *some, **named))
        return guide.join_rows(self.base, outputs, torch.cat(groups).argsort())


def _key(name: str) -> str:
    """A name as a key of nn.ModuleDict, which admits no dots and none of its own attributes."""
    return "@" + name.replace(".", ":")
