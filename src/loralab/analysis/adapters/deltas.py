"""The updates ΔW = s·B·A of an adapter as thin factors, module by module; ΔW itself is never formed.

Shapes: O outputs and I inputs of a module's weight, R the rank, K ≤ R the numerical rank.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from loralab.core.names import modules_by_path
from loralab.errors import SpecError, listed
from loralab.formats.record import Runs, rows_of
from loralab.formats.stored import StoredAdapter, StoredUpdate
from loralab.nn.dense import is_stored_transposed
from loralab.nn.module_names import kind_of_module, layer_index
from loralab.progress import tracked


class OfModule(Protocol):
    """Something measured of one module."""

    @property
    def name(self) -> str:
        """The module's path."""


Row = TypeVar("Row", bound=OfModule)


def deltas(adapter: StoredAdapter, modules: str | None = None) -> Iterator[StoredUpdate]:
    """The updates of an adapter, one matrix each, in float64; with `modules` those whose name matches a regular
    expression.

    Raises SpecError where there are none, or none of that name.
    """
    chosen = _chosen(adapter, modules)
    if not adapter.updates:
        raise SpecError(f"{adapter.source} is of method {adapter.method}, which has no low-rank factors to analyse")
    if not chosen:
        names = listed([pair.name for pair in adapter.updates])
        raise SpecError(f"no module of {adapter.source} matches {modules!r}; it adapts {names}")
    for pair in tracked(chosen, "modules"):
        yield from pair.groups()


def module_names(adapter: StoredAdapter, modules: str | None = None) -> list[str]:
    """The names of the modules that an adapter updates by low-rank factors."""
    return [pair.name for pair in _chosen(adapter, modules)]


def paired_deltas(
    one: StoredAdapter, other: StoredAdapter, modules: str | None = None
) -> Iterator[tuple[StoredUpdate, StoredUpdate]]:
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


def random_basis(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Orthonormal columns of this shape, those of a Gaussian matrix: a random subspace; float64."""
    basis: Tensor = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))[0]
    return basis


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
