"""The factors of many adapters side by side, so that few products a module serve every row of a batch.

    h = W x + (x Aᵀ ∘ mask) B        A [C, I] and B [C, O]: the columns of all adapters at hand

An adapter is a run of columns, an `Extent`, as wide as its largest rank; a row of the batch sees the columns of its own
adapter alone. That is data: the model knows of no adapter, a forward hook adds what the bank says. It counts: with K
adapters of rank r the products cost 2·K·r·(I + O) operations a row beside the base's 2·I·O, and are two instead of 2·K.
Modules that read the same input (q, k and v) have their A on one shelf, so that one product gives x Aᵀ for all of them.

Shapes: R rows of a batch, T tokens, C columns, P modules of a shelf, I and O the widths of a module.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from loralab.serving.engine.native.low_rank import LowRankFactors, LowRankKernel

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


@dataclass(frozen=True)
class SeenColumns:
    """What a call of the model sees of the bank: some columns, and which of them each row."""

    columns: slice
    extents: Sequence[Extent]
    """Of each row, within the columns; one alone: of all rows, which see them all."""
    like: Tensor
    """A tensor of the factors' type."""

    @cached_property
    def mask_RC(self) -> Tensor | None:
        """1 where row r sees column c; None: every row sees them all."""
        if len(self.extents) == 1:
            return None
        mask_RC = self.like.new_zeros(len(self.extents), self.columns.stop - self.columns.start)
        for row, extent in enumerate(self.extents):
            mask_RC[row, max(0, extent.start - self.columns.start) : max(0, extent.stop - self.columns.start)] = 1
        return mask_RC


NOTHING = Extent(0, 0)
"""What a row sees that no adapter answers."""


@dataclass(frozen=True)
class SeenRuns:
    """What the rows of a product see of the bank: runs of them, one after the other."""

    runs: Sequence[tuple[slice, SeenColumns | None]]

    @classmethod
    def none(cls) -> "SeenRuns":
        """Of rows that the base answers."""
        return cls([])

    @cached_property
    def parts(self) -> Sequence[tuple[slice, SeenColumns]]:
        """The runs that see anything."""
        return [(rows, columns) for rows, columns in self.runs if columns is not None]

    @cached_property
    def extents_N2(self) -> Tensor:
        """The first column of each row, and the one behind its last, int32."""
        every = [extent for rows, columns in self.runs for extent in _of_each(rows.stop - rows.start, columns)]
        return torch.tensor([(extent.start, extent.stop) for extent in every], dtype=torch.int32)


class Shelf:
    """The columns of modules that read the same input: A [C, P, I], and of each its B [C, O]."""

    def __init__(self, capacity: int, in_features: int, like: Tensor, kernel: LowRankKernel | None = None) -> None:
        self.paths: list[str] = []
        self.A = like.new_zeros(capacity, 0, in_features)
        self.B: list[Tensor] = []
        self._adapters: list[int] = []
        self._kernel = kernel
        self._factors: LowRankFactors | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no adapter has columns here."""
        return not any(self._adapters)

    @property
    def memory_bytes(self) -> int:
        """What the factors take."""
        return self.A.nbytes + sum(B.nbytes for B in self.B)

    def put(self, path: str, extent: Extent, A: Tensor, scaled_B: Tensor) -> None:
        """One adapter's factors for one module into the first of its columns."""
        if path not in self.paths:
            self._add(path, len(scaled_B))
        place, columns = self.paths.index(path), slice(extent.start, extent.start + len(A))
        self.A[columns, place].copy_(A.detach())
        self.B[place][columns].copy_(scaled_B.detach().T)
        self._adapters[place] += 1

    def clear(self, path: str, extent: Extent) -> None:
        """Zeros in the place of one adapter's factors for one module."""
        place = self.paths.index(path)
        self.A[extent.slice, place] = 0
        self.B[place][extent.slice] = 0
        self._adapters[place] -= 1

    def grow(self, capacity: int) -> None:
        """Room for more columns."""
        self.A, self.B = _longer(self.A, capacity), [_longer(B, capacity) for B in self.B]
        self._factors = None

    def keep(self, columns: Sequence[int]) -> None:
        """These columns and no others."""
        self.A, self.B = self.A[columns], [B[columns] for B in self.B]
        self._factors = None

    def add(self, y_NO: Tensor, places: Mapping[str, slice], x_NI: Tensor, seen: SeenRuns) -> None:
        """Add to each row what its adapter adds where the outputs of each module are: the same places at every call."""
        if self._kernel is not None:
            if self._factors is None:
                self._factors = LowRankFactors(self.A, self.B, [places[path].start for path in self.paths])
            self._kernel(y_NO, x_NI, seen.extents_N2, self._factors)
            return
        for rows, columns in seen.parts:
            self.add_to({path: y_NO[rows, places[path]] for path in self.paths}, x_NI[rows], columns)

    def add_to(self, h: Mapping[str, Tensor], x_RI: Tensor, seen: SeenColumns) -> None:
        """h += (x Aᵀ ∘ mask) B for all modules here, whose outputs h [R, O] are given by path."""
        u_RCP = nn.functional.linear(x_RI, self.A[seen.columns].flatten(0, 1)).view(len(x_RI), -1, len(self.paths))
        u_PRC = u_RCP.new_empty(len(self.paths), *u_RCP.shape[:2])
        if seen.mask_RC is None:
            u_PRC.copy_(u_RCP.permute(2, 0, 1))
        else:
            torch.mul(u_RCP.permute(2, 0, 1), seen.mask_RC, out=u_PRC)
        for path, u_RC, B in zip(self.paths, u_PRC, self.B, strict=True):
            h[path].addmm_(u_RC, B[seen.columns])

    def added(self, path: str, h: Tensor, x: Tensor, seen: SeenColumns) -> Tensor:
        """h + (x Aᵀ ∘ mask) B of one module; x [R, T, I] or, as some models have it, [R·T, I]."""
        place = self.paths.index(path)
        u = nn.functional.linear(x, self.A[seen.columns, place])
        if seen.mask_RC is not None:
            u = u.view(len(seen.mask_RC), -1, u.shape[-1]) * seen.mask_RC[:, None]
        return torch.addmm(h.flatten(0, -2), u.flatten(0, -2), self.B[place][seen.columns]).view(h.shape)

    def _add(self, path: str, out_features: int) -> None:
        self.paths.append(path)
        self._adapters.append(0)
        self.A = torch.cat([self.A, self.A.new_zeros(len(self.A), 1, self.A.shape[2])], 1)
        self.B.append(self.A.new_zeros(len(self.A), out_features))
        self._factors = None


class FactorBank:
    """The factors of the adapters at hand, for the modules of one model, and which of them a call sees."""

    def __init__(
        self,
        model: nn.Module,
        together: Iterable[tuple[str, ...]] = (),
        *,
        hooked: bool = True,
        kernel: LowRankKernel | None = None,
    ) -> None:
        """`together` are the paths of modules that read the same input; without `hooked` the model's own modules are
        left as they are, and add nothing. The kernel serves factors of its type; None: torch's products do.
        """
        self._modules, self._hooked, self._kernel = dict(model.named_modules()), hooked, kernel
        self._together = {path: paths for paths in together for path in paths}
        self._shelves: dict[tuple[str, ...], Shelf] = {}
        self._handles: dict[str, RemovableHandle] = {}
        self._extents: dict[str, Extent] = {}
        self._adapted: dict[str, tuple[str, ...]] = {}
        self._capacity = 0
        self._seen: SeenColumns | None = None

    # -- adapters come and go -------------------------------------------------------------------------------------

    def __contains__(self, key: str) -> bool:
        return key in self._extents

    @property
    def keys(self) -> list[str]:
        """The adapters that have columns, those first that have had them longest."""
        return list(self._extents)

    @property
    def width(self) -> int:
        """Columns up to the last that is used."""
        return max((extent.stop for extent in self._extents.values()), default=0)

    @property
    def memory_bytes(self) -> int:
        """What the factors take."""
        return sum(shelf.memory_bytes for shelf in self._shelves.values())

    @torch.inference_mode()
    def put(self, key: str, pairs: Pairs) -> None:
        """Give an adapter columns and write its factors there. Modules that it does not adapt keep zeros."""
        extent = self._place(max(A.shape[0] for A, _ in pairs.values()))
        if extent.stop > self._capacity:
            self._grow(extent.stop)
        for path, (A, scaled_B) in pairs.items():
            self._shelf_for(path, A.shape[1]).put(path, extent, A, scaled_B)
            if self._hooked and path not in self._handles:
                self._handles[path] = self._modules[path].register_forward_hook(self._hook(path))
        self._extents[key], self._adapted[key] = extent, tuple(pairs)

    @torch.inference_mode()
    def remove(self, key: str) -> None:
        """Zero an adapter's columns and let others have them; a shelf that no adapter uses any more is freed.

        Columns are, once three of four are unused: those in use move together then.
        """
        extent = self._extents.pop(key)
        for path in self._adapted.pop(key):
            shelf = self._shelves[self._together.get(path, (path,))]
            shelf.clear(path, extent)
            if shelf.is_empty:
                self._drop(self._together.get(path, (path,)))
        self._shrink()

    def close(self) -> None:
        """Take everything off the model."""
        for key in list(self._extents):
            self.remove(key)

    def _drop(self, paths: tuple[str, ...]) -> None:
        for path in self._shelves.pop(paths).paths:
            if self._hooked:
                self._handles.pop(path).remove()

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
            shelf.grow(self._capacity)

    def _shrink(self) -> None:
        placed = sorted(self._extents.items(), key=lambda each: each[1].start)
        columns = [column for _, extent in placed for column in range(extent.start, extent.stop)]
        if len(columns) > self._capacity // 4:
            return
        for shelf in self._shelves.values():
            shelf.keep(columns)
        start, self._capacity = 0, len(columns)
        for key, extent in placed:
            self._extents[key] = Extent(start, start + extent.stop - extent.start)
            start = self._extents[key].stop

    def _shelf_for(self, path: str, in_features: int) -> Shelf:
        paths = self._together.get(path, (path,))
        if paths not in self._shelves:
            module = self._modules[path]
            like = next(each for each in (*module.parameters(), *module.buffers()) if each.is_floating_point())
            self._shelves[paths] = Shelf(self._capacity, in_features, like, self._kernel_for(like))
        return self._shelves[paths]

    def _kernel_for(self, like: Tensor) -> LowRankKernel | None:
        return self._kernel if self._kernel is not None and self._kernel.serves(like) else None

    # -- what a call sees -----------------------------------------------------------------------------------------

    def seen(self, keys: Sequence[str | None]) -> SeenColumns | None:
        """What is seen where row r of a batch is answered by adapter `keys[r]` (None: the base); None: nothing.

        The columns reach from the first adapter's to the last one's: those of adapters outside cost nothing.
        """
        extents = [None if key is None else self._extents[key] for key in keys]
        some = [extent for extent in extents if extent is not None]
        if not some:
            return None
        columns = Extent(min(extent.start for extent in some), max(extent.stop for extent in some))
        like = next(iter(self._shelves.values())).A
        of_rows = some[:1] if len(set(extents)) == 1 else [extent or NOTHING for extent in extents]
        return SeenColumns(columns.slice, of_rows, like)

    @contextmanager
    def seen_by(self, keys: Sequence[str | None]) -> Iterator[None]:
        """While this is open the model's own modules answer row r of a batch by adapter `keys[r]`."""
        self._seen = self.seen(keys)
        try:
            yield
        finally:
            self._seen = None

    def shelf(self, paths: tuple[str, ...]) -> Shelf | None:
        """The shelf of modules that read the same input; None where no adapter has any of them."""
        return self._shelves.get(paths)

    def _hook(self, path: str) -> Any:
        paths = self._together.get(path, (path,))

        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output if self._seen is None else self._shelves[paths].added(path, output, args[0], self._seen)

        return add


def _of_each(rows: int, seen: SeenColumns | None) -> Sequence[Extent]:
    if seen is None:
        return [NOTHING] * rows
    return seen.extents if len(seen.extents) == rows else [*seen.extents] * rows


def _longer(tensor: Tensor, length: int) -> Tensor:
    longer = tensor.new_zeros(length, *tensor.shape[1:])
    longer[: len(tensor)] = tensor
    return longer
