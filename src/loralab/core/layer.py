"""The layer that holds a base module, and the updates that named adapters bring to it.

The layer decides *which* update applies, from the model's one `Routing`; the update computes. It never changes a
weight: neither `forward` nor `train()` nor `eval()` does (merging is `merge.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.rows.invocation import Starts
from loralab.core.rows.layout import FLAT, Layout, digest
from loralab.core.updates.sum import UpdateSum
from loralab.core.updates.update import Update
from loralab.core.watch import Watch
from loralab.core.writer import module_that_writes, not_merged_in_it
from loralab.errors import AdapterStateError
from loralab.nn.tensors import device_of

Speaker = str | tuple[str, ...]
"""The adapter that speaks, by name; or several at once, whose updates add up."""


def names_of(speaker: Speaker | None) -> tuple[str, ...]:
    """The names of all that speak."""
    return (speaker,) if isinstance(speaker, str) else speaker or ()


def in_words(speaker: Speaker) -> str:
    """`adapter 'a'`, or `adapters 'a' + 'b'`."""
    names = names_of(speaker)
    return f"adapter{'s' if len(names) > 1 else ''} {' + '.join(map(repr, names))}"


Call = tuple[Any, Any, Any]
"""Digests of what a layer was called with (positional arguments, keyword arguments), and of what it gave."""


@dataclass(frozen=True)
class PerSequence:
    """Who speaks to each sequence of a batch: to sequence s it is `names[adapter_S[s]]` (None: the base)."""

    names: tuple[Speaker | None, ...]
    adapter_S: Tensor
    starts: tuple[int | None, ...] | None = None
    """From which position the adapter of each sequence acts, for one with an invocation; None: it is looked for."""

    @staticmethod
    def of(per_sequence: Sequence[Speaker | None], starts: tuple[int | None, ...] | None = None) -> "PerSequence":
        """From one speaker per sequence."""
        names = tuple(dict.fromkeys(per_sequence))
        return PerSequence(names, torch.tensor([names.index(name) for name in per_sequence]), starts)


@dataclass
class Routing:
    """Who speaks, shared by all adapted layers of one model.

    `rows` takes precedence over `active`; `merged` is whose update the base weights already hold.
    """

    active: Speaker | None = None
    rows: PerSequence | None = None
    merged: Speaker | None = None
    watch: Watch | None = None
    """Where layers tell that they are called, for as long as that is being watched."""
    calls: dict[nn.Module, list[Call]] | None = None
    """Where layers put down what they are called with, the base computing, for as long as that is being looked at."""
    layouts: Mapping[nn.Module, Layout | None] | None = None
    """Where the sequences are in each layer's input, as far as that has been proven for this batch."""
    starts: Starts | None = None
    """Of the call that is being computed, where an adapter with an invocation speaks."""
    waiting: tuple[Starts, ...] = ()
    """Of the last calls (two at most) that no backward pass has followed, for layers that it computes again."""
    computed_again: bool = False

    def close(self) -> None:
        """The call has been computed."""
        if self.starts is not None and torch.is_grad_enabled():
            self.waiting = (*(() if self.computed_again else self.waiting[-1:]), self.starts)
            self.computed_again = False
        self.starts = None

    def starts_now(self) -> Starts:
        """From where adapters act in the call that is being computed. AdapterStateError where that is not known."""
        if self.starts is not None:
            return self.starts
        if torch._C._current_graph_task_id() != -1 and self.waiting:  # within a backward pass: checkpointing
            return self._starts_again()
        raise AdapterStateError(
            "an adapter that acts from its invocation tokens on is on a layer that was called by itself: its tokens "
            "were not seen; call the model that takes input_ids"
        )

    def _starts_again(self) -> Starts:
        self.computed_again = True
        if len(self.waiting) > 1 and not self.waiting[0].is_as(self.waiting[1]):
            raise AdapterStateError(
                "a layer is computed again (checkpointing) after several calls of the model, whose adapter acts from "
                "other positions in each: which call this is of is not known. Call backward() after each call, and "
                "evaluate under torch.no_grad()"
            )
        return self.waiting[-1]

    @property
    def is_live(self) -> bool:
        """Whether any layer may compute something else than its base's own forward."""
        return self.merged is None and (self.active is not None or self.rows is not None)


class AdaptedLayer(nn.Module):
    """A base module with the updates of any number of adapters, of which those that speak to a sequence apply to it.

    Attributes that the layer does not have are the base's (`weight`, `in_features`, …), so that code which looks
    into a module keeps working. What it sees there is the *frozen* tensor, unless the active adapter replaces it in
    full: a parent that reads its child's weight (DeBERTa's relative positions) then computes with the trained one.
    """

    def __init__(self, base: nn.Module, routing: Routing) -> None:
        super().__init__()
        self.base = base
        self.routing = routing
        self.updates = nn.ModuleDict()
        self.sums: dict[tuple[str, ...], UpdateSum] = {}
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(super().__getattr__("base"), name)
            return self._replacement(name, value) if isinstance(value, Tensor) else value

    def _replacement(self, name: str, frozen: Tensor) -> Tensor:
        """The trained copy of a tensor of the base, in its dtype, if the active adapter has one; else the tensor."""
        if self.routing.merged is not None or self.routing.rows is not None:
            return frozen
        update = self.update_of(self.routing.active)
        read = frozen if update is None else update.as_read(name, frozen)
        if read is not frozen:
            return read
        watch = self.routing.watch
        acts = update is not None and update.is_low_rank and frozen.dim() > 1
        return watch.spied(self, frozen) if watch is not None and acts else frozen

    # -- its tensors by name ----------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Of a merged layer the base's tensors under the names of the plain model; else all that the layer holds.

        Raises AdapterStateError where those are to be a model's files.
        """
        if self.routing.merged is not None:
            return self.base.state_dict(*args, **kwargs)
        if (writer := module_that_writes()) is not None:
            raise AdapterStateError(not_merged_in_it(writer, map(_name, self.updates)))
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Tensors under the names of the plain model are the base's, and the updates stay as they are."""
        there = [name for name in state_dict if name.startswith(prefix)]
        if there and not any(name.startswith((f"{prefix}base.", f"{prefix}updates.")) for name in there):
            for name in there:
                state_dict[f"{prefix}base.{name.removeprefix(prefix)}"] = state_dict.pop(name)
            self.updates.state_dict(destination=state_dict, prefix=f"{prefix}updates.")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # -- updates by adapter name ------------------------------------------------------------------------------

    def put(self, name: str, update: Update) -> None:
        """Add the update of the adapter called `name`."""
        self.updates[_key(name)] = update
        self.sums.clear()

    def drop(self, name: str) -> None:
        """Forget the update of the adapter called `name`."""
        del self.updates[_key(name)]
        self.sums.clear()

    def update_of(self, speaker: Speaker | None) -> Update | None:
        """What this adapter, or these together, bring to this layer; None where that is nothing."""
        names = [name for name in names_of(speaker) if _key(name) in self.updates]
        if not names:
            return None
        if len(names) > 1:
            return self._sum(tuple(names))
        update = self.updates[_key(names[0])]
        assert isinstance(update, Update)
        return update

    def _sum(self, names: tuple[str, ...]) -> UpdateSum:
        if names not in self.sums:
            members = [self.updates[_key(name)] for name in names]
            self.sums[names] = UpdateSum([update for update in members if isinstance(update, Update)])
        return self.sums[names]

    def all_updates(self) -> list[Update]:
        """What all adapters bring to this layer."""
        return [update for update in self.updates.values() if isinstance(update, Update)]

    # -- the function -----------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base's output, under the active adapter's update or each row's own."""
        routing = self.routing
        if routing.watch is not None:
            routing.watch.called.add(self)
        if routing.calls is not None:
            given, output = (digest(args), digest(kwargs)), self.base(*args, **kwargs)
            routing.calls.setdefault(self, []).append((*given, digest(output)))
            return output
        if routing.merged is not None:
            return self._merged(*args, **kwargs)
        if routing.rows is not None:
            return self._by_row(routing.rows, args, kwargs)
        return self._under(self.update_of(routing.active), args, kwargs, self._starts(self.update_of(routing.active)))

    def _under(self, update: Update | None, args: Any, kwargs: Any, starts: Starts | None) -> Any:
        if update is None:
            return self.base(*args, **kwargs)
        given = {"starts": starts} if update.invocation else {}
        return update(self.base, *args, **kwargs, **given)

    def _starts(self, *updates: Update | None) -> Starts | None:
        """From where each sequence's adapter acts, if any of these updates asks."""
        return self.routing.starts_now() if any(update and update.invocation for update in updates) else None

    def _merged(self, *args: Any, **kwargs: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            raise AdapterStateError(
                f"the model is in training mode while {in_words(self.routing.merged or ())} is merged into it, so the "
                "adapter would get no gradient: call unmerge(model) or model.eval() first"
            )
        return self.base(*args, **kwargs)

    def _by_row(self, rows: PerSequence, args: Any, kwargs: Any) -> Any:
        updates = [self.update_of(name) for name in rows.names]
        present = [update for update in updates if update is not None]
        if not present:
            return self.base(*args, **kwargs)
        first, starts = present[0], self._starts(*present)
        if len(updates) == 1:
            return self._under(first, args, kwargs, starts)
        adapter_S = rows.adapter_S.to(device_of(self.base))
        layout = self._layout(first, args, kwargs, len(adapter_S))
        if first.features is None or kwargs or len(args) != 1:
            return self._split(first, updates, adapter_S, args, kwargs, starts)
        x: Tensor = args[0]
        leading, count = x.dim() - first.features, len(adapter_S)
        arranged = layout.sequences_first(x, leading, count)
        if all(u.mixes_as() is first.mixes_as() and u.can_mix() for u in present):
            output = first.mixed(self.base, updates, adapter_S, arranged, starts)
        else:
            output = self._split(first, updates, adapter_S, (arranged,), {}, starts)
        return layout.restored(output, x, leading, count)

    def _split(
        self,
        guide: Update,
        updates: list[Update | None],
        adapter_S: Tensor,
        args: Any,
        kwargs: Any,
        starts: Starts | None,
    ) -> Any:
        """Run the module once per adapter on that adapter's sequences and put the outputs back in order."""
        groups = [(adapter_S == k).nonzero().flatten() for k in range(len(updates))]
        outputs = []
        for update, group in zip(updates, groups, strict=True):
            some, named = guide.take_rows(self.base, args, kwargs, group, len(adapter_S))
            outputs.append(self._under(update, some, named, None if starts is None else starts.of(group)))
        return guide.join_rows(self.base, outputs, torch.cat(groups).argsort())

    def _layout(self, guide: Update, args: Any, kwargs: Any, count: int) -> Layout:
        """Where the sequences are in this input: as was proven, or, outside of the model's own pass, where the shape
        leaves no doubt. AdapterStateError otherwise."""
        first = next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))
        leading = first.shape[: first.dim() - (guide.features or 0)]
        proven = None if self.routing.layouts is None else self.routing.layouts.get(self)
        alone = self.routing.layouts is None and [size == count for size in leading].count(True) == 1
        layout = FLAT if alone and leading[guide.sequence_dimension(self.base)] == count else proven
        if layout is None or not (guide.features is None or layout.fits(leading, count)):
            raise AdapterStateError(
                f"rows() named {count} sequences, and it is not known which entries of an input {[*first.shape]} to a "
                f"{type(self.base).__name__} are whose; call the whole model within rows(), or run the adapters in "
                "separate batches"
            )
        return layout


def _name(key: str) -> str:
    return key.removeprefix("@").replace(":", ".")


def _key(name: str) -> str:
    """A name as a key of nn.ModuleDict, which admits no dots and none of its own attributes."""
    return "@" + name.replace(".", ":")
