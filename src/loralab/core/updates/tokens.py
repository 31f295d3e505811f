"""Chosen rows of an embedding or of an output head trained, and all other rows frozen: what new tokens need.

    E'[i] = R[k] where i is the k-th chosen token, else E[i]

R *replaces* the base's rows and is no difference to them: what a vocabulary that was resized holds in its new rows by
chance does not matter. An output head that is tied to the embedding *follows* it: both compute with the same R. No
product with R ever copies the whole of E. Knows nothing of tokenizers.

Shapes: V vocabulary, H width, T chosen tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.core.updates.update import WHOLE, Update
from loralab.nn.tensors import tensor_of, wide
from loralab.nn.trial import embedding_scale

TOKEN_ROWS = "token_rows"
"""The local name of R."""


class TokenUpdate(Update):
    """R [T, H] in the place of the rows `indices` of a weight [V, H]: of an embedding, or of a dense layer over it."""

    kind = "token rows"
    adds_up = False

    def __init__(self, indices: Sequence[int], width: int, device: torch.device, follows: str = "") -> None:
        super().__init__({}, added={TOKEN_ROWS: torch.zeros(len(indices), width, device=device)})
        self.indices = tuple(indices)
        self.width = width
        self.follows = follows
        """The path of the module whose R this one computes with; empty where R is its own."""
        self.register_buffer("chosen_T", torch.tensor(self.indices, device=device), persistent=False)

    def settings(self) -> dict[str, Any]:
        return settings_of_rows(self.indices, self.follows)

    def built_on(self, base: nn.Module) -> list[str]:
        """None: its rows replace the base's, and it depends on the others no more than on any weight."""
        return []

    # -- R ----------------------------------------------------------------------------------------------------

    @property
    def rows_TH(self) -> nn.Parameter:
        """R."""
        return self.added.get_parameter(TOKEN_ROWS)

    def take(self, values_TH: Tensor) -> "TokenUpdate":
        """Let R be a copy of these values, in float32 or wider."""
        self._hold(nn.Parameter(values_TH.detach().to(self.rows_TH.device, wide(values_TH), copy=True)))
        return self

    def start(self, base: nn.Module) -> "TokenUpdate":
        """Let R be the rows that the base has."""
        return self.take(tensor_of(base, WHOLE).detach()[self._chosen()])

    def link(self, others: Mapping[str, Update]) -> None:
        """From now on compute with the R of the module's update that this one follows."""
        if self.follows:
            leader = others[self.follows]
            assert isinstance(leader, TokenUpdate)
            self._hold(leader.rows_TH)

    def _hold(self, rows_TH: nn.Parameter) -> None:
        self.added.register_parameter(TOKEN_ROWS, rows_TH)

    def _chosen(self) -> Tensor:
        return self.get_buffer("chosen_T")

    @property
    def is_insertion(self) -> bool:
        """It computes nothing beside the module's own tensors, some rows of which it replaces."""
        return False

    def sleepers(self) -> set[str]:
        """A batch may hold none of the chosen tokens."""
        return {TOKEN_ROWS}

    # -- the function -----------------------------------------------------------------------------------------

    def deltas(self, base: nn.Module) -> dict[str, Tensor]:
        """R less the base's rows where they were chosen, zero elsewhere."""
        W = tensor_of(base, WHOLE)
        nothing = torch.zeros_like(W, dtype=self.rows_TH.dtype)
        return {WHOLE: nothing.index_copy(0, self._chosen(), self._difference(W))}

    def _difference(self, W_VH: Tensor) -> Tensor:
        """How far R is from the base's rows."""
        return self.rows_TH - W_VH.detach()[self._chosen()].to(self.rows_TH.dtype)

    def _substituted_wide(self, base: nn.Module) -> dict[str, Tensor]:
        return {WHOLE: self.as_read(WHOLE, tensor_of(base, WHOLE))} | self.replacements()

    def as_read(self, name: str, frozen: Tensor) -> Tensor:
        """The whole weight with R in it, in the weight's dtype: for who reads it past the module's forward."""
        if name != WHOLE:
            return super().as_read(name, frozen)
        return frozen.index_copy(0, self._chosen(), self.rows_TH.to(frozen.dtype))

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The module's output; by substitution where its forward is not a plain lookup or product."""
        if len(args) == 1 and not kwargs and is_plain_lookup(base):
            return self._looked_up(base, args[0])
        if len(args) == 1 and not kwargs and is_plain_head(base):
            return self._multiplied(base, args[0])
        return super().forward(base, *args, **kwargs)

    def _looked_up(self, base: nn.Module, ids: Tensor) -> Tensor:
        """The base's lookup, and at the chosen tokens their rows of R; that of padding_idx gets no gradient there."""
        h: Tensor = self.call(base, ids)
        ordered_T, order_T = self._chosen().sort()
        place = torch.searchsorted(ordered_T, ids.contiguous()).clamp_(max=len(ordered_T) - 1)
        rows = F.embedding(order_T[place], self.rows_TH.to(h.dtype), padding_idx=self.padding_row(base))
        return torch.where((ordered_T[place] == ids).unsqueeze(-1), embedding_scale(base, h) * rows, h)

    def padding_row(self, base: nn.Module) -> int | None:
        """Which row of R is that of the embedding's padding token, if any."""
        padding = getattr(base, "padding_idx", None)
        return self.indices.index(padding) if padding in self.indices else None

    def _multiplied(self, base: nn.Module, x: Tensor) -> Tensor:
        """The base's product, and the difference of R to its rows times the input added: exactly 0 at the start."""
        h: Tensor = self.call(base, x)
        added = F.linear(x, self._difference(tensor_of(base, WHOLE)).to(x.dtype))
        return h.index_add(-1, self._chosen(), added.to(h.dtype))


def settings_of_rows(indices: Sequence[int], follows: str) -> dict[str, Any]:
    """The chosen rows, and the path of the module whose rows they share or nothing, as plain JSON."""
    return {"indices": list(indices)} | ({"follows": follows} if follows else {})


def is_plain_lookup(base: nn.Module) -> bool:
    """Whether this embedding gives the rows of its ids and nothing else, times `embed_scale` where it has one."""
    plain = isinstance(base, nn.Embedding) and not base.scale_grad_by_freq
    return plain and (type(base).forward is nn.Embedding.forward or hasattr(base, "embed_scale"))


def is_plain_head(base: nn.Module) -> bool:
    """Whether this dense layer is x·Wᵀ + bias and nothing else."""
    return isinstance(base, nn.Linear) and type(base).forward is nn.Linear.forward
