"""The updates ΔW = s·B·A of an adapter as thin factors, module by module; ΔW itself is never formed.

Shapes: O outputs and I inputs of a module's weight, R the rank, K ≤ R the numerical rank.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from loralab.core.names import modules_by_path
from loralab.core.thin import Thin, numerical_rank
from loralab.errors import SpecError, listed
from loralab.formats.record import Runs, rows_of
from loralab.formats.stored import StoredAdapter
from loralab.formats.updates import StoredUpdate
from loralab.nn.dense import is_stored_transposed
from loralab.nn.module_names import kind_of_module, layer_index


class OfModule(Protocol):
    """Something measured of one module."""

    @property
    def name(self) -> str:
        """The module's path."""


Row = TypeVar("Row", bound=OfModule)


@dataclass(frozen=True)
class Delta:
    """The update of one matrix, in float64."""

    name: str
    """The module's path; with a number in brackets for one group of a convolution or one expert."""
    A_RI: Tensor
    B_OR: Tensor
    scale: float
    part_of: str | None = None
    """The path of the module whose weight holds the matrix, where it is some rows of it: `c_attn` of `c_attn.q`."""
    rows: Runs | None = None
    """Which rows."""

    @property
    def rank(self) -> int:
        """R, of the factors."""
        return len(self.A_RI)

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I), of ΔW."""
        return len(self.B_OR), self.A_RI.shape[1]

    @property
    def thin(self) -> Thin:
        """ΔW, the scale included."""
        return Thin(self.A_RI, self.scale * self.B_OR)

    @property
    def norm(self) -> float:
        """‖ΔW‖_F."""
        return self.thin.norm()

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """(U [O, K], σ [K] falling, V [I, K]) of ΔW.

        K is the numerical rank; it is 0 for an update that is zero.
        """
        U, sigma, V = self.thin.svd
        kept = numerical_rank(sigma, sum(self.shape))
        return U[:, :kept], sigma[:kept], V[:, :kept]


def deltas(adapter: StoredAdapter, modules: str | None = None) -> Iterator[Delta]:
    """The updates of an adapter one after another; with `modules` those whose name matches a regular expression.

    Raises SpecError where there are none, or none of that name.
    """
    chosen = _chosen(adapter, modules)
    if not adapter.updates:
        raise SpecError(f"{adapter.source} is of method {adapter.method}, which has no low-rank factors to analyse")
    if not chosen:
        names = listed([pair.name for pair in adapter.updates])
        raise SpecError(f"no module of {adapter.source} matches {modules!r}; it adapts {names}")
    for pair in chosen:
        A_GRI, B_GOR = pair.matrices()
        for group, (A_RI, B_OR) in enumerate(zip(A_GRI, B_GOR, strict=True)):
            name = f"{pair.name}[{group}]" if len(A_GRI) > 1 else pair.name
            yield Delta(name, A_RI, B_OR, pair.scale, pair.part_of, pair.rows)


def module_names(adapter: StoredAdapter, modules: str | None = None) -> list[str]:
    """The names of the modules that an adapter updates by low-rank factors."""
    return [pair.name for pair in _chosen(adapter, modules)]


def paired_deltas(
    one: StoredAdapter, other: StoredAdapter, modules: str | None = None
) -> Iterator[tuple[Delta, Delta]]:
    """The updates of the same module by two adapters. Raises SpecError where bases, targets or shapes differ."""
    refuse_unlike(one, other, modules)
    for mine, theirs in zip(deltas(one, modules), deltas(other, modules), strict=True):
        if mine.shape != theirs.shape:
            raise SpecError(
                f"{mine.name} is {list(mine.shape)} in {one.source} and {list(theirs.shape)} in {other.source}: "
                "they were trained on different models"
            )
        yield mine, theirs


def refuse_unlike(one: StoredAdapter, other: StoredAdapter, modules: str | None = None) -> None:
    """Two adapters must be of one base and adapt the same modules, or a regular expression must say which to look at.

    Raises SpecError naming what each of them has.
    """
    mine, theirs = (set(module_names(each, modules)) for each in (one, other))
    if mine != theirs:
        parts = [
            f"only {each.source} adapts {listed(sorted(names))}"
            for each, names in ((one, mine - theirs), (other, theirs - mine))
            if names
        ]
        raise SpecError(f"the adapters have different targets: {'; '.join(parts)}; choose common ones with --modules")
    bases = [None if each.sidecar is None else each.sidecar.fingerprint.digest for each in (one, other)]
    if modules is None and None not in bases and bases[0] != bases[1]:
        raise SpecError(
            f"the adapters belong to different base models: {one.source} to {bases[0]}, {other.source} to {bases[1]}; "
            "compare adapters of one base"
        )


def by_kind(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """What was measured of each module, by the kind of module."""
    kinds: dict[str, list[Row]] = {}
    for each in rows:
        kinds.setdefault(kind_of_module(each.name), []).append(each)
    return kinds


def places(rows: Sequence[OfModule]) -> list[float]:
    """Where each stands along a curve: at the number of its block, or its place among them outside blocks."""
    layers = [layer_index(each.name) for each in rows]
    return [float(number if layer is None else layer) for number, layer in enumerate(layers)]


def group_free(name: str) -> str:
    """A module's path without the number of one of its groups or experts."""
    return re.sub(r"\[\d+\]$", "", name)


def spread(items: Sequence[str], count: int) -> list[str]:
    """`count` of the items, evenly spaced, the first and the last among them; all where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def _chosen(adapter: StoredAdapter, modules: str | None) -> list[StoredUpdate]:
    """In the order of the blocks: files list block 10 before block 2."""
    chosen = [pair for pair in adapter.updates if modules is None or re.search(modules, pair.name)]
    return sorted(chosen, key=lambda pair: [int(piece) if piece.isdecimal() else piece for piece in _pieces(pair.name)])


def _pieces(name: str) -> list[str]:
    """Text and numbers in turn, text first."""
    return re.split(r"(\d+)", name)


def base_matrix(model: nn.Module, name: str, shape: tuple[int, int], rows: Runs | None = None) -> Tensor:
    """W [O, I] of the module `name`, in float64: `y = W·x`, whichever way round the module stores it.

    `shape` is that of its update, which may be of some of its `rows`. Raises SpecError where the model has no such
    module, or none of that shape.
    """
    module = modules_by_path(model).get(name)
    weight = getattr(module, "weight", None)
    if module is None or not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise SpecError(
            f"the adapter changes {name}, of which this model has no weight of its own to compare with; give the base "
            "model that it was trained on, or leave the module out with --modules"
        )
    stored_transposed = isinstance(module, nn.Embedding) or is_stored_transposed(module)
    W_OI = weight.detach().flatten(1).T if stored_transposed else weight.detach().flatten(1)
    if rows is not None:
        W_OI = W_OI[rows_of(rows)]
    if W_OI.shape != shape:
        raise SpecError(
            f"the update of {name} is {list(shape)}, the model's weight there is {list(W_OI.shape)}: the adapter was "
            "trained on another model"
        )
    return W_OI.to("cpu", torch.float64)
