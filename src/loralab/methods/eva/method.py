"""EVA (arXiv 2410.07170): a LoRA whose A starts as the principal components of what enters each layer on the task.

B starts at zero, so a fresh adapter is still the base, bit for bit. The total rank is shared out anew: every direction
of every layer competes by the share of its layer's variance that it explains, the Σ r best ones win, and a layer with
none has no adapter. A layer of rank r' has alpha·r'/r (rsLoRA: alpha·√(r'/r)), so that its scale is that of the others.
What comes out is a plain LoRA, whose ranks and alphas stand in its rank_pattern and alpha_pattern.

Confirmed by the paper and PEFT: B = 0, rho, tau, the budget, the scaled alpha. From PEFT's code alone: variance is
about the mean, the label mask, what `whiten` does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from re import escape
from typing import TypeVar

import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.core.names import modules_by_path
from loralab.core.updates.low_rank import LinearUpdate
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import NumericsError, SpecError
from loralab.methods.eva.components import PrincipalComponents, have_settled
from loralab.methods.eva.inputs import InputWatch, base_alone, real_positions, run
from loralab.methods.lora import LoRA

Number = TypeVar("Number", int, float)

OVERSAMPLING = 32
"""Directions kept beyond those that can be chosen, at least: what they hold can still rise."""


@dataclass(frozen=True)
class Place:
    """A weight that is to have an adapter, or a part of a fused one: of `…c_attn[q]` the layer is `…c_attn`."""

    layer: str
    part: str
    rank: int
    most: int
    """The highest rank it may get."""

    @property
    def name(self) -> str:
        """As LoRA's patterns name it."""
        return self.layer if self.part == WHOLE else f"{self.layer}[{self.part}]"

    @property
    def tensor(self) -> str:
        """The name of its A among an adapter's tensors."""
        return f"{self.layer}.lora_A" if self.part == WHOLE else f"{self.layer}.{self.part}.lora_A"


@dataclass
class Found:
    """What the batches said: for each place its singular values and directions, best first, and its share of rank."""

    ranks: dict[str, int] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    directions: dict[str, Tensor] = field(default_factory=dict)
    batches: int = 0
    positions: int = 0
    unsettled: list[str] = field(default_factory=list)
    """Layers whose directions still turned in the last batch."""


def attach_eva(
    model: nn.Module,
    spec: LoRA,
    batches: Iterable[Mapping[str, Tensor]],
    name: str = "default",
    *,
    rho: float = 2.0,
    tau: float = 0.99,
    label_mask: bool = True,
    whiten: bool = False,
) -> Adapter:
    """Attach `spec` with A from the model's own inputs on `batches`: what it is called with, and perhaps `labels`.

    A place gets a rank of at most rho·r; rho = 1 shares nothing out. Batches are taken until the directions chosen have
    a cosine of at least tau with those of the batch before, everywhere, or there are no more. Of a batch only positions
    with attention_mask 1 count; with `label_mask` and labels [B, T] only those with a label. `whiten` divides each row
    of A by the square root of its singular value.

    `adapter.spec` is a plain LoRA. Raises SpecError for targets that are no dense layers, and for values that cannot
    be; NumericsError where inputs are not finite or never vary.
    """
    _check(model, spec, rho, tau)
    plain = replace(spec, init="kaiming")
    places = places_of(plain, model, rho)
    found = _explore(model, places, batches, tau, label_mask)
    adapter = attach(model, with_ranks(plain, model, places, found.ranks), name)
    own = dict(adapter.named_tensors())
    for place in places:
        rank = found.ranks[place.name]
        if rank:
            A_RI = found.directions[place.name][:rank]
            own[place.tensor].data.copy_(A_RI / found.values[place.name][:rank, None].sqrt() if whiten else A_RI)
    adapter.notes.extend(_notes(places, found))
    return adapter


def _check(model: nn.Module, spec: LoRA, rho: float, tau: float) -> None:
    problems = []
    if not rho >= 1 or rho == float("inf"):
        problems.append(f"rho is {rho} and must be a number from 1: a layer gets a rank of at most rho·r")
    if not 0 <= tau <= 1:
        problems.append(f"tau is {tau}, and a cosine to reach lies in [0, 1]")
    if spec.init not in ("eva", "kaiming"):
        problems.append(f"init is {spec.init!r}, which is another start; leave it out")
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        problems.append(
            "the model has an encoder and a decoder, with padding of their own each; EVA here knows one of them, "
            "so start as usual (init kaiming)"
        )
    if problems:
        raise SpecError("EVA cannot start this: " + "; ".join(problems))


# -- places and their ranks ---------------------------------------------------------------------------------------


def places_of(spec: LoRA, model: nn.Module, rho: float) -> list[Place]:
    """Every weight that `spec` adapts, in the model's order; SpecError for what has no dense layer's input."""
    with torch.random.fork_rng(devices=[]):
        updates = {path: update for path, update in spec.plan(model).updates.items() if len(update.parts)}
    _only_dense(model, updates)
    return [_place(path, part, update, rho) for path, update in updates.items() for part in update.parts]


def _place(path: str, part: str, update: Update, rho: float) -> Place:
    delta = update.delta_of(part)
    A_RI, B_OR = delta.settled()
    smaller_side = min(A_RI.shape[1], B_OR.shape[0])
    return Place(path, part, delta.recipe.rank, min(round(rho * delta.recipe.rank), smaller_side))


def _only_dense(model: nn.Module, updates: Mapping[str, Update]) -> None:
    by_path = modules_by_path(model)
    others = [path for path, update in updates.items() if not isinstance(update, LinearUpdate)]
    if others:
        named = ", ".join(f"{path} ({type(by_path[path]).__name__})" for path in others)
        raise SpecError(
            f"EVA starts from the inputs of dense layers, and {named} is not one; "
            "leave it out with exclude, or start as usual (init kaiming)"
        )


def shared_out(shares: Mapping[str, Tensor], budget: int) -> dict[str, int]:
    """How many of the `budget` largest shares are each place's; `shares` holds them by place, largest first.

    Of equal ones that of the earlier place, so that the answer depends on the numbers alone.
    """
    ranked = sorted((-float(share), order) for order, name in enumerate(shares) for share in shares[name])
    names, counts = list(shares), dict.fromkeys(shares, 0)
    for _, order in ranked[:budget]:
        counts[names[order]] += 1
    return counts


def with_ranks(spec: LoRA, model: nn.Module, places: Iterable[Place], ranks: Mapping[str, int]) -> LoRA:
    """`spec` on the places of a rank above 0 alone, named one by one, each in its rank and at the scale that it had."""
    places = list(places)
    kept = {place.name: ranks[place.name] for place in places if ranks[place.name]}
    alphas = {name: spec.recipe(name).at_rank(rank).alpha for name, rank in kept.items()}
    return replace(
        spec,
        targets=_targets(model, [place for place in places if place.name in kept]),
        rank_pattern=_pattern(kept, spec.rank),
        alpha_pattern=_pattern(alphas, spec.alpha),
    )


def _pattern(values: Mapping[str, Number], default: Number) -> dict[str, Number]:
    """Place → value, where it is not the default or another place's key matches too; longer keys, which win, first."""
    needed = [
        name
        for name, value in values.items()
        if value != default or any(name.endswith(f".{other}") for other in values if other != name)
    ]
    return {name: values[name] for name in sorted(needed, key=len, reverse=True)}


def _targets(model: nn.Module, places: Iterable[Place]) -> list[str]:
    """Each layer's path, with the parts left of a fused one; as an expression where another path ends in it."""
    parts: dict[str, list[str]] = {}
    for place in places:
        parts.setdefault(place.layer, []).append(place.part)
    paths = list(modules_by_path(model))
    exact = {
        layer: f"(?:{escape(layer)})" if any(path.endswith(f".{layer}") for path in paths) else layer for layer in parts
    }
    return [
        exact[layer] if names == [WHOLE] else f"{exact[layer]}[{','.join(names)}]" for layer, names in parts.items()
    ]


# -- exploring the inputs -----------------------------------------------------------------------------------------


class _Exploration:
    """The components of every distinct input so far, and the ranks that follow from them."""

    def __init__(self, places: list[Place]) -> None:
        self.places = places
        most = max(place.most for place in places)
        self.kept = most + max(most, OVERSAMPLING)
        self.components: dict[str, PrincipalComponents] = {}
        self.watch = InputWatch(list(dict.fromkeys(place.layer for place in places)), self._take)
        self.leading: dict[str, tuple[Tensor, Tensor]] = {}
        self.ranks: dict[str, int] = {}

    def _take(self, path: str, rows_NI: Tensor) -> None:
        self.components.setdefault(path, PrincipalComponents(self.kept)).add(rows_NI)

    def measure(self, tau: float) -> list[str]:
        """Share the ranks out by what is known now; returns the layers whose directions moved since the last call."""
        before, self.leading = (
            self.leading,
            {path: each.leading() for path, each in self.components.items() if each.count},
        )
        shares = {place.name: self._shares(place) for place in self.places}
        self.ranks = shared_out(shares, sum(place.rank for place in self.places))
        needed: dict[str, int] = {}
        for place in self.places:
            owner = self.watch.owner[place.layer]
            needed[owner] = max(needed.get(owner, 0), self.ranks[place.name])
        return [path for path in needed if not self._settled(before, path, needed[path], tau)]

    def _settled(self, before: Mapping[str, tuple[Tensor, Tensor]], path: str, count: int, tau: float) -> bool:
        if path not in self.leading or path not in before:
            return False
        return have_settled(before[path][1], self.leading[path][1], count, tau)

    def _shares(self, place: Place) -> Tensor:
        owner = self.watch.owner[place.layer]
        if owner not in self.leading:
            return torch.empty(0)
        return self.components[owner].explained(self.leading[owner][0][: place.most])

    def result(self, batches: int, unsettled: list[str]) -> Found:
        """What it came to."""
        if not any(self.ranks.values()):
            raise NumericsError("no input of the targets varies over the batches; give other batches")
        of = {place.name: self.leading.get(self.watch.owner[place.layer]) for place in self.places}
        return Found(
            self.ranks,
            {name: leading[0] for name, leading in of.items() if leading},
            {name: leading[1] for name, leading in of.items() if leading},
            batches,
            max(each.count for each in self.components.values()),
            unsettled,
        )


def _explore(
    model: nn.Module, places: list[Place], batches: Iterable[Mapping[str, Tensor]], tau: float, label_mask: bool
) -> Found:
    """Run the base on the batches until the directions have settled."""
    exploration, count, moving = _Exploration(places), 0, [place.layer for place in places]
    watch = exploration.watch
    with base_alone(model), watch.on(model):
        for batch in batches:
            real = real_positions(batch, label_mask)
            watch.new_batch(None if real is None else real.to(next(model.parameters()).device))
            run(model, watch.paths, batch)
            if watch.unseen():
                raise SpecError(
                    f"{', '.join(watch.unseen())} did not run when the model was called with {', '.join(batch)}, so "
                    "nothing is known of its inputs; leave it out with exclude"
                )
            count, moving = count + 1, exploration.measure(tau)
            if not moving:
                break
    if not count:
        raise SpecError("EVA was given no batches to start from; give some of the task's")
    return exploration.result(count, moving)


def _notes(places: list[Place], found: Found) -> list[str]:
    ranks = [found.ranks[place.name] for place in places]
    given, asked, without = [rank for rank in ranks if rank], sum(place.rank for place in places), ranks.count(0)
    said = (
        f"EVA: A from the inputs at {found.positions} positions of {found.batches} batches; ranks "
        f"{min(given)} to {max(given)}, {sum(given)} of {asked} in all"
    )
    notes = [said + (f"; {without} of {len(places)} weights got none and have no adapter" if without else "")]
    if found.unsettled:
        notes.append(
            f"EVA: the directions of {len(found.unsettled)} inputs still turned when the batches ended, "
            f"{found.unsettled[0]} among them; more batches, or a lower tau"
        )
    return notes
