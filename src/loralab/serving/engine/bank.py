"""The factors of many adapters side by side, so that one product a module serves every row of a batch.

    h = W x + (x Aᵀ ∘ mask) B        A [C, I] and B [C, O]: the columns of all adapters at hand

An adapter is a run of columns, an `Extent`, as wide as its largest rank; a row of the batch sees the columns of its own
adapter alone. That is data: the model knows of no adapter, a forward hook adds what the bank says. It counts: with K
adapters of rank r the products cost 2·K·r·(I + O) operations a row beside the base's 2·I·O, and are two instead of 2·K.

Shapes: R rows of a batch, T tokens, C columns, I and O the widths of a module.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""By module path: A [R, I] and s·B [O, R] of one adapter."""


@dataclass(frozen=True)
class Extent:
    """The columns of one adapter."""

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """As an index."""
        return slice(self.start, self.stop)


Seen = Extent | Tensor | None
"""The columns that a call of the model sees: one adapter's for all rows; a mask [R, 1, C]; none, for the base."""


@dataclass
class Shelf:
    """The columns of one module: A [C, I], B [C, O], and how many adapters have any there."""

    A: Tensor
    B: Tensor
    handle: RemovableHandle
    adapters: int = 0


class FactorBank:
    """The factors of the adapters at hand, for the modules of one model, and which of them a call sees."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._shelves: dict[str, Shelf] = {}
        self._extents: dict[str, Extent] = {}
        self._adapted: dict[str, tuple[str, ...]] = {}
        self._capacity = 0
        self._seen: Seen = None

    # -- adapters come and go -------------------------------------------------------------------------------------

    def __contains__(self, key: str) -> bool:
        return key in self._extents

    @property
    def keys(self) -> list[str]:
        """The adapters that have columns, those first that have had them longest."""
        return list(self._extents)

    @property
    def width(self) -> int:
        """Columns up to the last that is used: what every masked row pays for."""
        return max((extent.stop for extent in self._extents.values()), default=0)

    @property
    def memory_bytes(self) -> int:
        """What the factors take."""
        return sum(each.nbytes for shelf in self._shelves.values() for each in (shelf.A, shelf.B))

    @torch.inference_mode()
    def put(self, key: str, pairs: Pairs) -> None:
        """Give an adapter columns and write its factors there. Modules that it does not adapt keep zeros."""
        extent = self._place(max(A.shape[0] for A, _ in pairs.values()))
        if extent.stop > self._capacity:
            self._grow(extent.stop)
        for path, (A, scaled_B) in pairs.items():
            shelf = self._shelves.get(path) or self._new_shelf(path, A.shape[1], scaled_B.shape[0])
            rank = slice(extent.start, extent.start + A.shape[0])
            shelf.A[rank].copy_(A.detach())
            shelf.B[rank].copy_(scaled_B.detach().T)
            shelf.adapters += 1
        self._extents[key], self._adapted[key] = extent, tuple(pairs)

    @torch.inference_mode()
    def remove(self, key: str) -> None:
        """Zero an adapter's columns and let others have them; what no adapter uses any more is freed.

        Columns are, once three of four are unused: those in use move together then.
        """
        extent = self._extents.pop(key)
        for path in self._adapted.pop(key):
            shelf = self._shelves[path]
            shelf.adapters -= 1
            shelf.A[extent.slice] = 0
            shelf.B[extent.slice] = 0
            if shelf.adapters == 0:
                self._shelves.pop(path).handle.remove()
        self._shrink()

    def close(self) -> None:
        """Take everything off the model."""
        for key in list(self._extents):
            self.remove(key)

    def _place(self, width: int) -> Extent:
        """The first gap that is wide enough; the end where none is."""
        start = 0
        for extent in sorted(self._extents.values(), key=lambda each: each.start):
            if extent.start - start >= width:
                break
            start = max(start, extent.stop)
        return Extent(start, start + width)

    def _grow(self, columns: int) -> None:
        """At least double, so that adapters that come one by one are copied once on average."""
        self._capacity = max(columns, 2 * self._capacity)
        for shelf in self._shelves.values():
            shelf.A, shelf.B = (_longer(each, self._capacity) for each in (shelf.A, shelf.B))

    def _shrink(self) -> None:
        placed = sorted(self._extents.items(), key=lambda each: each[1].start)
        columns = [column for _, extent in placed for column in range(extent.start, extent.stop)]
        if len(columns) > self._capacity // 4:
            return
        for shelf in self._shelves.values():
            shelf.A, shelf.B = shelf.A[columns], shelf.B[columns]
        start, self._capacity = 0, len(columns)
        for key, extent in placed:
            self._extents[key] = Extent(start, start + extent.stop - extent.start)
            start = self._extents[key].stop

    def _new_shelf(self, path: str, in_features: int, out_features: int) -> Shelf:
        module = self._modules[path]
        like = next(each for each in (*module.parameters(), *module.buffers()) if each.is_floating_point())
        A, B = (like.new_zeros(self._capacity, width) for width in (in_features, out_features))
        shelf = Shelf(A, B, module.register_forward_hook(self._hook(path)))
        self._shelves[path] = shelf
        return shelf

    # -- what a call sees -----------------------------------------------------------------------------------------

    @contextmanager
    def seen_by(self, keys: Sequence[str | None]) -> Iterator[None]:
        """While this is open row r of the model's batch is answered by adapter `keys[r]`; None is the base."""
        self._seen = self._columns(keys)
        try:
            yield
        finally:
            self._seen = None

    def _columns(self, keys: Sequence[str | None]) -> Seen:
        distinct = set(keys)
        if distinct == {None}:
            return None
        if len(distinct) == 1:
            return self._extents[next(iter(distinct))]  # type: ignore[index]
        some = next(iter(self._shelves.values())).A
        mask = some.new_zeros(len(keys), 1, self.width)
        for row, key in enumerate(keys):
            if key is not None:
                mask[row, :, self._extents[key].slice] = 1
        return mask

    def _hook(self, path: str) -> Any:
        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output if self._seen is None else added(output, args[0], self._shelves[path], self._seen)

        return add


def added(h: Tensor, x: Tensor, shelf: Shelf, seen: Extent | Tensor) -> Tensor:
    """h + (x Aᵀ ∘ mask) B of the columns that are seen; x [R, T, I] or, as some models have it, [R·T, I]."""
    columns = seen.slice if isinstance(seen, Extent) else slice(0, seen.shape[-1])
    u = nn.functional.linear(x, shelf.A[columns])
    if isinstance(seen, Tensor):
        u = u.view(len(seen), -1, seen.shape[-1]) * seen
    return torch.addmm(h.flatten(0, -2), u.flatten(0, -2), shelf.B[columns]).view(h.shape)


def _longer(tensor: Tensor, rows: int) -> Tensor:
    longer = tensor.new_zeros(rows, tensor.shape[1])
    longer[: len(tensor)] = tensor
    return longer
