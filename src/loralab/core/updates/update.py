"""What one adapter does at one module.

An update is *defined* by substitution: the module computes as if some of its tensors were others, W + s·B·A for
those with low-rank factors and a trained copy for those replaced in full. `Update.forward` does just that, so it
is right for any module; the subclasses in `low_rank.py` compute the same function without ever forming B·A.
An update may also bring tensors of its own that stand for none of the module's (`added`): a layer after it, a prefix.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from loralab.core.rows.invocation import Starts
from loralab.core.rows.sequences import join, select
from loralab.core.updates.factors import Factors, LowRankDelta
from loralab.nn.tensors import tensor_of, wide
from loralab.nn.wide import Added

Kind = Literal[
    "linear",
    "embedding",
    "conv",
    "attention",
    "parameters",
    "replacement",
    "token rows",
    "bottleneck",
    "mixed bottleneck",
    "prefix",
    "prefix of a block",
]
"""The kinds of update, in the words that files use: five of low rank, named for what they update; the others replace
tensors, or put something into the model."""
KINDS: tuple[Kind, ...] = get_args(Kind)


WHOLE = "weight"
"""The name of the part that is a module's whole weight."""


class Update(nn.Module):
    """Factors by part of the module, full replacements by tensor name, and tensors of its own."""

    kind: ClassVar[Kind] = "replacement"
    """Name in files, shared with subclasses that compute the same function in another way."""
    why_not_merged: ClassVar[str] = ""
    """Why the base's weights cannot take this update up; empty where they can."""
    invocation: tuple[int, ...] = ()
    """The tokens from which on it acts (aLoRA); empty where it acts at every position."""
    adds_up: ClassVar[bool] = True
    """Whether its ΔW is the low-rank product of its parts, so that several of them have a sum."""

    def __init__(
        self,
        parts: Mapping[str, LowRankDelta],
        replaced: Mapping[str, Tensor] | None = None,
        added: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self.added = Added(added or {})
        self.replaced = nn.Module()
        for name, tensor in (replaced or {}).items():
            self.replace(name, tensor)

    # -- parameters and state ---------------------------------------------------------------------------------

    def replace(self, name: str, tensor: Tensor, trains: bool = True) -> None:
        """From now on the module's tensor `name` is a copy of `tensor`: one that trains, in float32, or one that does
        not (whole numbers, running statistics), in its own dtype."""
        if trains and tensor.is_floating_point():
            copied = tensor.detach().to(wide(tensor), copy=True)
            self.replaced.register_parameter(_key(name), nn.Parameter(copied))
        else:
            self.replaced.register_buffer(_key(name), tensor.detach().clone())

    def restore(self, name: str, saved: Tensor, base: nn.Module) -> None:
        """Replace the module's tensor `name` by what was saved of it."""
        own = tensor_of(base, name)
        trains = isinstance(own, nn.Parameter)
        self.replace(name, saved.to(own.device, None if trains else own.dtype), trains)

    def delta_of(self, part: str) -> LowRankDelta:
        """The low-rank update of one part."""
        delta = self.parts[part]
        assert isinstance(delta, LowRankDelta)
        return delta

    def factors_of(self, part: str) -> Factors:
        """The update of one part, which must be a plain pair."""
        factors = self.parts[part]
        assert isinstance(factors, Factors)
        return factors

    @property
    def is_plain(self) -> bool:
        """Whether every part is a plain pair A, B."""
        return all(isinstance(delta, Factors) for delta in self.parts.values())

    def plain(self) -> "Update":
        """An update of the same function whose parts are plain pairs; itself where they are."""
        return self._with_parts({part: self.delta_of(part).as_lora() for part in self.parts})

    def stored_form(self) -> "Update":
        """This update as it is written to disk: what is a plain pair but for how it came about is written as one."""
        deltas = {part: self.delta_of(part) for part in self.parts}
        return self._with_parts(
            {part: each.as_lora() if each.stored_as_lora else each for part, each in deltas.items()}
        )

    def _with_parts(self, parts: Mapping[str, LowRankDelta]) -> "Update":
        """This update with other deltas in place of its own."""
        if all(parts[part] is self.parts[part] for part in parts):
            return self
        made = copy.copy(self)
        made._modules = dict(self._modules)
        made.parts = nn.ModuleDict(dict(parts))
        return made

    def share(self, name: str, parameter: nn.Parameter) -> None:
        """From now on the module's tensor `name` is this trained copy, which another update replaces a tied one by."""
        self.replaced.register_parameter(_key(name), parameter)

    def replacements(self) -> dict[str, Tensor]:
        """Tensor name within the module → its trained copy."""
        owned = {**self.replaced._parameters, **self.replaced._buffers}
        return {_name(key): tensor for key, tensor in owned.items() if tensor is not None}

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(local name, tensor) of everything this update stores: `lora_A`, `q.lora_B`, `bias`, …"""
        for part in self.parts:
            for name, tensor in self.delta_of(part).stored():
                yield _local(part, name), tensor
        yield from self.added.named_parameters()
        yield from self.replacements().items()

    def settings(self) -> dict[str, Any]:
        """What makes its like, beside its kind and its parts, as plain JSON."""
        return {}

    @property
    def adds_tensors(self) -> bool:
        """Whether it brings trained tensors that stand for none of the module's."""
        return bool(self.added._parameters)

    @property
    def only_replaces(self) -> bool:
        """Whether it is trained copies of the module's tensors and nothing else."""
        return not (len(self.parts) or self.adds_tensors)

    def owned_buffers(self) -> Iterator[Tensor]:
        """Copies of the module's tensors that do not train: running statistics, counters."""
        yield from self.replaced.buffers(recurse=False)

    @property
    def is_insertion(self) -> bool:
        """Whether it computes something beside its module's own tensors: a low-rank path, a layer, a prefix."""
        return not self.only_replaces

    @property
    def is_low_rank(self) -> bool:
        """Whether it changes weights of its module by low-rank pairs."""
        return bool(len(self.parts))

    def built_on(self, base: nn.Module) -> list[str]:
        """Names of the module's tensors that this update changes or builds on: what must not be another base's.

        Not for a task's head, whose tensors start at random.
        """
        if len(self.parts):
            return [WHOLE]
        return [name for name in self.replacements() if tensor_of(base, name).is_floating_point()]

    def silent_at_first_step(self) -> set[str]:
        """Local names of the tensors whose gradient is rightly zero in the very first backward pass."""
        return {_local(part, name) for part in self.parts for name in self.delta_of(part).silent_at_first_step()}

    def sleepers(self) -> set[str]:
        """Local names of the tensors that a forward pass may leave out by chance."""
        return {_local(part, name) for part in self.parts for name in self.delta_of(part).sleepers()}

    def link(self, others: Mapping[str, "Update"]) -> None:
        """Know those of the adapter's updates, by path, that this one works with: a follower its leader."""

    # -- factors as matrices ----------------------------------------------------------------------------------

    def matrices(self, part: str) -> tuple[Tensor, Tensor]:
        """(A […, R, I], s·B […, O, R]) of one part, detached; leading dimensions are groups or experts."""
        return self.delta_of(part).settled()

    def set_matrices(self, part: str, A: Tensor, B: Tensor) -> None:
        """Let this part be B·A with scale 1, in the rank of A."""
        self.parts[part] = Factors.of(A, B, rank=A.shape[-2], like=self.delta_of(part))

    def change(self, base: nn.Module, part: str) -> Tensor:
        """ΔW […, O, I] of one part as a matrix, in full and detached."""
        A, scaled_B = self.matrices(part)
        return scaled_B @ A

    def without_lengths(self) -> "Update":
        """An update by low-rank pairs alone; itself where nothing else belongs to it."""
        return self

    def adopt_parts(self, other: "Update") -> None:
        """Take over the parts of another update of the same module that this one lacks."""
        for part in other.parts:
            if part not in self.parts:
                self.parts[part] = other.delta_of(part)

    # -- the function -----------------------------------------------------------------------------------------

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        """Tensor name within the module → ΔW in that tensor's own layout, in `wide` of that tensor's dtype."""
        return {}

    def trial_input(self, base: nn.Module) -> Tensor | None:
        """Something to run the module on, where it does not run by substitution, so that a merge can be tried."""
        return None

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The module's output under this update, by substitution."""
        return functional_call(base, self.substituted(base), args, kwargs)

    def substituted(self, base: nn.Module) -> dict[str, Tensor]:
        """The tensors the module computes with, in its own dtypes, differentiable in the update's parameters."""
        return {name: tensor.to(tensor_of(base, name).dtype) for name, tensor in self._substituted_wide(base).items()}

    def merged(self, base: nn.Module) -> dict[str, Tensor]:
        """The tensors of a merged module: W + ΔW summed in float32 or wider and rounded once to the module's dtype."""
        with torch.no_grad():
            return {
                name: tensor.to(tensor_of(base, name).dtype, copy=True)
                for name, tensor in self._substituted_wide(base).items()
            }

    def _substituted_wide(self, base: nn.Module) -> dict[str, Tensor]:
        summed = {name: tensor_of(base, name).to(D.dtype) + D for name, D in self.deltas(base).items()}
        return summed | self.replacements()

    def as_read(self, name: str, frozen: Tensor) -> Tensor:
        """What a parent that reads the module's tensor `name` is to find: the trained copy, in its dtype, if any."""
        replaced = self.replacements()
        return replaced[name].to(frozen.dtype) if name in replaced else frozen

    def call(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The base's own forward, with only the tensors replaced that this update replaces in full."""
        replaced = self.replacements()
        if not replaced:
            return base(*args, **kwargs)
        cast = {name: tensor.to(tensor_of(base, name).dtype) for name, tensor in replaced.items()}
        return functional_call(base, cast, args, kwargs)

    def dropout(self) -> float:
        """The dropout probability on the low-rank path at this moment: 0 outside training."""
        if not self.training or not self.parts:
            return 0.0
        return max(self.delta_of(part).recipe.dropout for part in self.parts)

    # -- beside other adapters' updates -----------------------------------------------------------------------

    runs_beside: ClassVar[bool] = False
    """Whether `beside` computes this update; where it does not, it takes the place of the module's tensors."""

    def beside(self, base: nn.Module, h: Tensor, x: Tensor) -> Tensor:
        """What this update adds to the module's output `h` for the input `x`, in the dtype of `h`."""
        raise AssertionError(f"{type(self).__name__} does not run beside its module")

    # -- one adapter per sequence of the batch ----------------------------------------------------------------

    features: ClassVar[int | None] = None
    """How many dimensions of its one input are an entry's own, where every entry is treated alike: 1 for a dense layer,
    0 for a lookup. None where what is next to an entry counts as well."""

    def can_mix(self) -> bool:
        """Whether `mixed` computes this update now; where it does not, the batch is split by adapter."""
        return False

    def mixes_as(self) -> type["Update"]:
        """The class whose `mixed` computes this update beside others of that class."""
        return type(self)

    def mixed(
        self,
        base: nn.Module,
        updates: Sequence["Update | None"],
        adapter_S: Tensor,
        x: Tensor,
        starts: Starts | None = None,
    ) -> Tensor:
        """The output for a whole batch, sequences first, of which s is under `updates[adapter_S[s]]`, in one pass.

        `starts` where any of the updates has an invocation.
        """
        raise AssertionError(f"{type(self).__name__} cannot mix")

    def sequence_dimension(self, base: nn.Module) -> int:
        """Which dimension of the module's input `take_rows` takes the sequences from."""
        return 0

    def take_rows(self, base: nn.Module, args: Any, kwargs: Any, index: Tensor, count: int) -> tuple[Any, Any]:
        """The inputs of the sequences `index` alone, of a batch of `count` sequences."""
        return select(args, index, count), select(kwargs, index, count)

    def join_rows(self, base: nn.Module, outputs: Sequence[Any], order: Tensor) -> Any:
        """One output from those of consecutive groups of sequences, brought into the given order."""
        return join(outputs, order)


def _local(part: str, name: str) -> str:
    """A tensor's name within its update: `lora_A`, or `q.lora_A` in a part."""
    return name if part == WHOLE else f"{part}.{name}"


def _key(name: str) -> str:
    return name.replace(".", ":")


def _name(key: str) -> str:
    return key.replace(":", ".")
