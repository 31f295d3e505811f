"""Trained positions around the prompt: PrefixEmbedding and PrefixLayer (paper §5.1).

    tokens       x_1 … x_p                       y_1 … y_n
    run as   P_1 … P_l  x_1 … x_p  I_1 … I_m     y_1 … y_n        P: l prefix, I: m infix positions, trained

PrefixEmbedding trains the embeddings of P and I, d·(l+m) numbers. PrefixLayer also replaces the activations at these
positions, before every block but the first (whose input they are already), by trained ones that no input reaches:
L·d·(l+m) in all, as the paper counts. After the last block nothing is replaced: the last infix position is what
predicts y_1, and has to depend on x.

The caller sees none of this: what goes in and comes out has the T positions of the tokens; the output at x_p is that
of the last infix position. Positions are the model's own, counted over the longer sequence. An encoder's first token
([CLS]) stays in front of the prefix, since classifiers read position 0. In generation the trained positions enter with
the prompt and stay in the cache.

Shapes: B sequences, T tokens, S = l+m trained positions, d width, H = d; N = T+S positions that the model runs.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from loralab.core.adapter import adapters_on
from loralab.core.layer import names_of
from loralab.core.prompt import prompt_ends
from loralab.core.rows.call import cache_of
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError, AdapterStateError, SpecError
from loralab.models.context import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NO_ROWS = "positions put into the sequence, which cannot differ between the rows of one batch; run them apart"


@dataclass(frozen=True)
class Places:
    """Where tokens and trained positions lie in the longer sequence."""

    token_BT: Tensor
    """The position of each token."""
    trained_BS: Tensor
    """The positions of prefix and infix."""
    read_BT: Tensor
    """Where the output for each token is read: its own position, for the last of the prompt the last infix's."""

    @staticmethod
    def of(ends_B: Tensor, tokens: int, prefix: int, infix: int, first: int, reads_ahead: bool) -> "Places":
        """`first` tokens precede the prefix; prompts end at `ends_B`; a decoder reads ahead, an encoder does not."""
        ends_B1 = ends_B.clamp(min=first, max=tokens)[:, None]  # a caller may look at the first tokens of a row only
        t_1T = torch.arange(tokens, device=ends_B.device)[None]
        token_BT = t_1T + prefix * (t_1T >= first) + infix * (t_1T >= ends_B1)
        before_BP = (first + torch.arange(prefix, device=ends_B.device)).expand(len(ends_B), -1)
        after_BI = ends_B1 + prefix + torch.arange(infix, device=ends_B.device)
        last_of_prompt = t_1T == ends_B1 - 1
        read_BT = token_BT + (infix * last_of_prompt if reads_ahead else 0)
        return Places(token_BT, torch.cat([before_BP, after_BI], 1), read_BT)

    def spread(self, tokens: Tensor, trained: Tensor) -> Tensor:
        """[B, N, …] from what belongs to the tokens [B, T, …] and to the trained positions [B, S, …]."""
        length = tokens.shape[1] + trained.shape[1]
        whole = tokens.new_zeros(len(tokens), length, *tokens.shape[2:])
        whole = whole.scatter(1, _wide_index(self.token_BT, tokens), tokens)
        return whole.scatter(1, _wide_index(self.trained_BS, trained), trained)

    def read(self, x_BNH: Tensor) -> Tensor:
        """What the caller sees, [B, T, H]."""
        return x_BNH.gather(1, _wide_index(self.read_BT, x_BNH))


def _wide_index(index: Tensor, like: Tensor) -> Tensor:
    """An index [B, K] for every trailing dimension of `like`."""
    trailing = like.shape[2:]
    return index.view(*index.shape, *(1 for _ in trailing)).expand(*index.shape, *trailing)


@dataclass
class Shared:
    """What the update of the body tells those of its blocks about the pass that is running."""

    places: Places | None = field(default=None)


class BlockPrefixUpdate(Update):
    """Before this block the activations at the trained positions are replaced by trained ones [S, d]."""

    kind = "prefix of a block"
    why_not_merged: ClassVar[str] = "trained activations in place of computed ones, which are no weights"

    def __init__(self, positions: int, width: int, device: torch.device) -> None:
        super().__init__({}, added={"activations": torch.zeros(positions, width, device=device)})
        self.positions, self.width, self.shared = positions, width, Shared()

    def settings(self) -> dict[str, Any]:
        return {"positions": self.positions, "width": self.width}

    def link(self, others: Mapping[str, Update]) -> None:
        """Know what the body's update finds out in each pass."""
        body = next((update for update in others.values() if isinstance(update, PrefixUpdate)), None)
        if body is None:
            raise AdapterFileError("the adapter has activations for blocks, but no prefix before them; get it again")
        self.shared = body.shared

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        places = self.shared.places
        if places is None:
            return self.call(base, *args, **kwargs)
        if args:
            return self.call(base, self._replaced(args[0], places), *args[1:], **kwargs)
        return self.call(base, **kwargs | {"hidden_states": self._replaced(kwargs["hidden_states"], places)})

    def _replaced(self, x_BNH: Tensor, places: Places) -> Tensor:
        trained_SH = self.added.get_parameter("activations").to(x_BNH.dtype)
        trained_BSH = trained_SH.expand(len(x_BNH), -1, -1)
        return x_BNH.scatter(1, _wide_index(places.trained_BS, trained_BSH), trained_BSH)

    def take_rows(self, base: nn.Module, args: Any, kwargs: Any, index: Tensor, count: int) -> tuple[Any, Any]:
        raise AdapterStateError(f"rows() cannot mix an adapter of {_NO_ROWS}")


class PrefixUpdate(Update):
    """The body of a model, run on its tokens with trained embeddings [S, d] among them."""

    kind = "prefix"
    why_not_merged: ClassVar[str] = "positions put into the sequence, which are no weights"

    def __init__(self, prefix: int, infix: int, width: int, device: torch.device, keeps_first: bool) -> None:
        super().__init__({}, added={"embeddings": torch.zeros(prefix + infix, width, device=device)})
        self.prefix, self.infix, self.width, self.keeps_first = prefix, infix, width, keeps_first
        self.shared = Shared()

    def settings(self) -> dict[str, Any]:
        lengths = {"prefix": self.prefix, "infix": self.infix}
        return lengths | {"width": self.width, "keeps_first": self.keeps_first}

    def built_on(self, base: nn.Module) -> list[str]:
        embeddings = base.get_input_embeddings()  # type: ignore[operator]
        return [f"{name}.weight" for name, module in base.named_modules() if module is embeddings]

    @property
    def positions(self) -> int:
        """S."""
        return self.prefix + self.infix

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(type(base).forward).bind_partial(base, *args, **kwargs).arguments
        given.pop("self", None)
        given |= given.pop("kwargs", {})
        cache = cache_of(given)
        cached = 0 if cache is None else int(cache.get_seq_length())
        mask = given.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise SpecError(
                "a prefix needs attention_mask as [batch, tokens]; masks of another shape are not lengthened"
            )
        self._check_room(base, given, cached)
        if cached:
            self.shared.places = None
            return self.call(base, **self._continued(given))
        places = self._places(given)
        self.shared.places = places
        output = self.call(base, **self._lengthened(base, given, places))
        return _read(output, places)

    def _places(self, given: dict[str, Any]) -> Places:
        ids = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        ends = prompt_ends()
        if ends is None:
            ends = _row_ends(given.get("attention_mask"), ids)
        first = int(self.keeps_first)
        return Places.of(ends.to(ids.device), ids.shape[1], self.prefix, self.infix, first, not self.keeps_first)

    def _lengthened(self, base: nn.Module, given: dict[str, Any], places: Places) -> dict[str, Any]:
        """The inputs of the body with the trained positions in them."""
        ids, x_BTH = given.pop("input_ids", None), given.pop("inputs_embeds", None)
        if x_BTH is None:
            x_BTH = base.get_input_embeddings()(ids)  # type: ignore[operator]
        trained_SH = self.added.get_parameter("embeddings").to(x_BTH.dtype)
        given["inputs_embeds"] = places.spread(x_BTH, trained_SH.expand(len(x_BTH), -1, -1))
        mask, kinds = given.get("attention_mask"), given.get("token_type_ids")
        if mask is not None:
            given["attention_mask"] = places.spread(mask, mask.new_ones(len(mask), self.positions))
        if kinds is not None:
            given["token_type_ids"] = places.spread(kinds, self._kinds(kinds, places))
        if given.pop("position_ids", None) is not None and mask is not None:
            given["position_ids"] = (given["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
        return given

    def _kinds(self, kinds_BT: Tensor, places: Places) -> Tensor:
        """Segment numbers: the prefix is in the first token's segment, the infix in that of the prompt's last."""
        before = kinds_BT[:, :1].expand(-1, self.prefix)
        own_BT = (places.token_BT < places.trained_BS[:, -1:]) if self.infix else torch.ones_like(kinds_BT).bool()
        last_B1 = own_BT.sum(1, keepdim=True) - 1
        return torch.cat([before, kinds_BT.gather(1, last_B1).expand(-1, self.infix)], 1)

    def _continued(self, given: dict[str, Any]) -> dict[str, Any]:
        """The inputs of a step on a cache that holds the trained positions already."""
        mask, numbers = given.get("attention_mask"), given.get("position_ids")
        if mask is not None:
            before, after = mask.new_ones(len(mask), self.prefix), mask.new_ones(len(mask), self.infix)
            given["attention_mask"] = torch.cat([before, mask, after], 1)
        if numbers is not None:
            given["position_ids"] = numbers + self.positions
        return given

    def _check_room(self, base: nn.Module, given: dict[str, Any], cached: int) -> None:
        ids = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        length = ids.shape[1] + (cached or self.positions)
        room = context_length(base)  # type: ignore[arg-type]
        if room is not None and length > room:
            raise SpecError(
                f"{length} positions, {self.positions} of them the prefix's and infix's, do not fit: the "
                f"model's context is {room}; shorten the text or the prefix"
            )

    def take_rows(self, base: nn.Module, args: Any, kwargs: Any, index: Tensor, count: int) -> tuple[Any, Any]:
        raise AdapterStateError(f"rows() cannot mix an adapter of {_NO_ROWS}")


def inserted_positions(updates: Mapping[str, Update]) -> int:
    """How many positions of the model's context an adapter takes up."""
    return sum(update.positions for update in updates.values() if isinstance(update, PrefixUpdate))


def _row_ends(mask_BT: Tensor | None, ids: Tensor) -> Tensor:
    """Where each row's last real token ends."""
    if mask_BT is None:
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    numbers_1T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)[None]
    return (numbers_1T * mask_BT.ne(0)).amax(1)


def _read(output: Any, places: Places) -> Any:
    """The body's output as the caller expects it: hidden states at the tokens alone."""
    if isinstance(output, tuple):
        return (places.read(output[0]), *output[1:])
    output.last_hidden_state = places.read(output.last_hidden_state)
    if getattr(output, "hidden_states", None) is not None:
        output.hidden_states = tuple(places.read(each) for each in output.hidden_states)
    return output


def text_room(model: "PreTrainedModel") -> int | None:
    """Tokens, or None where the model's positions have no end."""
    context, adapters = context_length(model), adapters_on(model)
    if context is None:
        return None
    speaking = names_of(adapters.routing.active)
    return context - sum(inserted_positions(adapters.adapter(name).updates) for name in speaking)
