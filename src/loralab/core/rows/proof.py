"""The proof that `rows` needs: for each adapted layer, where the sequences of the batch are in its input.

Before the first batch of a new form the base runs it once as it is and once for each sequence alone, and every layer
whose sequences differ in their adapters shows its layout, or is refused by name. Layouts that do not depend on sizes
are proven once; others anew for every size, and for every batch where a sequence has a number of entries of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.layer import AdaptedLayer, Call, PerSequence, Routing
from loralab.core.rows.layout import FLAT, Layout, alone, find_layout, is_packed, same, untouched
from loralab.core.updates.update import Update
from loralab.errors import AdapterStateError, LoralabError
from loralab.nn.mode import evaluating
from loralab.nn.trial import UNRUNNABLE

Calls = dict[nn.Module, list[Call]]


@dataclass
class RowProofs:
    """What has been proven of a model's layers, by the form of the model's arguments."""

    routing: Routing
    layers: Mapping[str, AdaptedLayer]
    proven: dict[object, dict[nn.Module, Layout | None]] = field(default_factory=dict)
    """For each form, the layout of every layer that was looked at; None for one that was not called."""

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pre-hook of the model: let the layers know their layouts."""
        rows = self.routing.rows
        if rows is None or len(rows.names) < 2 or self.routing.calls is not None or torch.compiler.is_compiling():
            return
        adapted = {
            path: layer
            for path, layer in self.layers.items()
            if any(layer.update_of(name) is not None for name in rows.names)
        }
        form, sized = (_form((args, kwargs), with_sizes) for with_sizes in (False, True))
        lasting = not is_packed((args, kwargs), len(rows.adapter_S))
        known = (self.proven.get(form) or self.proven.get(sized) or {}) if lasting else {}
        new = {path: layer for path, layer in adapted.items() if layer not in known}
        if new:
            known = known | self._prove(new, module, args, kwargs, rows)
            regular = all(layout is None or layout.is_regular for layout in known.values())
            if lasting:
                self.proven[form if regular else sized] = known
        self.routing.layouts = known

    def _prove(
        self, layers: Mapping[str, AdaptedLayer], module: nn.Module, args: Any, kwargs: Any, rows: PerSequence
    ) -> dict[nn.Module, Layout | None]:
        count = len(rows.adapter_S)
        together = self._calls(module, untouched((args, kwargs)))
        apart = [self._calls(module, alone((args, kwargs), sequence, count)) for sequence in range(count)]
        layouts: dict[nn.Module, Layout | None] = dict.fromkeys(layers.values())
        for layer in [layer for layer in layers.values() if layer in together]:
            update = next(filter(None, map(layer.update_of, rows.names)))
            calls = [each.get(layer, []) for each in apart]
            layouts[layer] = _layout(update, layer.base, together[layer], calls)
        lost = [
            f"{path} (input {_shapes(together[layer][0])})"
            for path, layer in layers.items()
            if layer in together and layouts[layer] is None
        ]
        if lost:
            raise AdapterStateError(
                f"rows() names {count} sequences, which cannot be told apart in the input of "
                f"{', '.join(lost)}: what it gets of a sequence in the batch is not what it gets of that alone; "
                "run the adapters in separate batches, or leave this layer out of the targets"
            )
        return layouts

    def _calls(self, module: nn.Module, arguments: Any) -> Calls:
        """What the adapted layers are called with, the base computing."""
        args, kwargs = arguments
        calls: Calls = {}
        self.routing.calls = calls
        try:
            with evaluating(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
                module.forward(*args, **kwargs)
        except LoralabError:
            raise
        except UNRUNNABLE as problem:
            raise AdapterStateError(
                "rows() runs the model on each sequence alone to tell which entries are whose, and it does not run on "
                f"this one ({type(problem).__name__}: {problem}); run the adapters in separate batches"
            ) from problem
        finally:
            self.routing.calls = None
        return calls


def _layout(
    update: Update, base: nn.Module, together: Sequence[Call], apart: Sequence[Sequence[Call]]
) -> Layout | None:
    """The one layout that a layer has in all of its calls of one pass."""
    if any(len(calls) != len(together) for calls in apart):
        return None
    fitting = {
        _layout_of_call(update, base, call, [calls[number] for calls in apart]) for number, call in enumerate(together)
    }
    return fitting.pop() if len(fitting) == 1 else None


def _layout_of_call(update: Update, base: nn.Module, call: Call, apart: Sequence[Call]) -> Layout | None:
    args, kwargs, output = call
    if update.features is not None and len(args) == 1 and not kwargs:
        batch = args[0]  # a digest, whose features are gone
        return find_layout(batch, [each[0][0] for each in apart], batch.dim())
    for sequence, single in enumerate(apart):
        share = update.take_rows(base, args, kwargs, torch.tensor([sequence]), len(apart))
        if not same(share, update.take_rows(base, *single[:2], torch.tensor([0]), 1)):
            return None
    if not same(update.join_rows(base, [each[2] for each in apart], torch.arange(len(apart))), output):
        return None  # a state [layers, S, …], say
    dimension = update.sequence_dimension(base)
    sizes = [each.shape[dimension] for each in (*args, *kwargs.values()) if _has(each, dimension)]
    return replace(FLAT, fixed=any(size > 1 and size % len(apart) for size in sizes))


def _has(argument: object, dimension: int) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > dimension


def _form(arguments: Any, with_sizes: bool) -> object:
    """The form of a model's arguments: which tensors there are, of how many dimensions, or of which sizes."""
    if isinstance(arguments, Tensor):
        return tuple(arguments.shape) if with_sizes else arguments.dim()
    if isinstance(arguments, dict):
        return tuple((key, _form(value, with_sizes)) for key, value in sorted(arguments.items()))
    if isinstance(arguments, (tuple, list)):
        return tuple(_form(value, with_sizes) for value in arguments)
    return type(arguments).__name__


def _shapes(call: Call) -> str:
    args, kwargs, _ = call
    return ", ".join(str([*each.shape]) for each in (*args, *kwargs.values()) if isinstance(each, Tensor))
