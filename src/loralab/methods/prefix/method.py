"""The specifications of the two prefix methods, and how their trained positions start (paper §5.1).

Embeddings start as those of random tokens of the vocabulary; PrefixLayer's activations as the ones that the base
computes for these tokens alone. So a fresh prefix of a causal model is the base with l real tokens before the text.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from loralab.core.names import modules_by_path, unwrapped
from loralab.core.plan import Plan
from loralab.core.updates.update import Update
from loralab.errors import TargetError
from loralab.methods.beside import head_updates, heads_of
from loralab.methods.prefix.update import BlockPrefixUpdate, PrefixUpdate
from loralab.methods.specification import Specification
from loralab.models.families.aliases import block_paths, family_of
from loralab.nn.mode import evaluating
from loralab.nn.tensors import wide


@dataclass(frozen=True)
class PrefixEmbedding(Specification):
    """Trained embeddings before and after the prompt: PreEmbed, d·(prefix+infix) parameters."""

    prefix: int = 8
    """l_p, positions before the prompt."""
    infix: int = 8
    """l_i, positions after it."""
    modules_to_save: Sequence[str] | None = None
    """The task's head, trained in full and counted apart. None: it is found."""

    def problems(self) -> list[str]:
        if min(self.prefix, self.infix) >= 0 and self.prefix + self.infix >= 1:
            return []
        return [
            f"prefix is {self.prefix} and infix {self.infix}; neither can be negative, and at least one must be above 0"
        ]

    def plan(self, model: nn.Module) -> Plan:
        """The update of the model's body, and the heads. Raises TargetError for a model that it is not known how to run
        on embeddings."""
        heads = heads_of(model, self.modules_to_save)
        path, body = _body(model)
        updates: dict[str, Update] = {path: _fresh_embeddings(model, body, self.prefix, self.infix)}
        return Plan(updates | head_updates(model, heads), (), tuple(heads))


@dataclass(frozen=True)
class PrefixLayer(PrefixEmbedding):
    """Trained embeddings, and activations in their places before every further block: PreLayer, L·d·(prefix+infix)."""

    def plan(self, model: nn.Module) -> Plan:
        """The updates of the body and of every block but the first, and the heads."""
        heads = heads_of(model, self.modules_to_save)
        path, body = _body(model)
        embeddings = _fresh_embeddings(model, body, self.prefix, self.infix)
        updates: dict[str, Update] = {path: embeddings}
        blocks = _blocks(model)
        starts = _activations(body, list(blocks.values()), embeddings.added.get_parameter("embeddings"))
        for (block, _), start_SH in list(zip(blocks.items(), starts, strict=True))[1:]:
            update = BlockPrefixUpdate(len(start_SH), start_SH.shape[1], start_SH.device)
            with torch.no_grad():
                update.added.get_parameter("activations").copy_(start_SH)
            updates[block] = update
        return Plan(updates | head_updates(model, heads), (), tuple(heads))


def _body(model: nn.Module) -> tuple[str, nn.Module]:
    """(path, module) of the part of a transformers model that takes tokens or embeddings and gives hidden states.

    Of a decoder the innermost such part: an OPT calls the decoder within its base model, past the base model.
    """
    inner, family = unwrapped(model), family_of(model)
    path = str(getattr(inner, "base_model_prefix", ""))
    by_path = modules_by_path(model)
    body = by_path.get(path)
    if body is not None and family is not None and family.architecture == "decoder":
        body = unwrapped(cast(Any, inner).get_decoder())
        path = next(path for path, module in by_path.items() if module is body)
    if body is None or family is None or family.architecture not in ("decoder", "encoder"):
        kind = "is not a transformers model with a body of its own" if body is None else "is of an unknown family"
        if family is not None and family.architecture not in ("decoder", "encoder"):
            kind = f"is of the kind {family.architecture}"
        raise TargetError(
            f"{type(inner).__name__} cannot have a prefix: it {kind}, and prefixes need a text decoder or encoder; "
            "choose lora, which adapts modules of any model by name"
        )
    return path, body


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    lists = block_paths(model)
    if len(lists) != 1:
        raise TargetError(f"prefix-layer needs one list of blocks, and {type(unwrapped(model)).__name__} has {lists}")
    return {path: module for path, module in modules_by_path(model).items() if path.rpartition(".")[0] == lists[0]}


def _fresh_embeddings(model: nn.Module, body: nn.Module, prefix: int, infix: int) -> PrefixUpdate:
    table = cast(Any, body).get_input_embeddings()
    if not isinstance(unwrapped(table), nn.Embedding):
        raise TargetError(f"a prefix needs a table of embeddings, and {type(body).__name__} has {type(table).__name__}")
    family = family_of(model)
    keeps_first = family is not None and family.architecture == "encoder"
    update = PrefixUpdate(prefix, infix, table.weight.shape[1], table.weight.device, keeps_first)
    chosen_S = torch.randint(len(table.weight), (prefix + infix,)).to(table.weight.device)
    with torch.no_grad():
        values = table(chosen_S)
        update.added.get_parameter("embeddings").copy_(values.to(wide(values)))
    return update


@torch.no_grad()
def _activations(body: nn.Module, blocks: list[nn.Module], embeddings_SH: Tensor) -> list[Tensor]:
    """What enters each block [S, H] when the body runs on these embeddings alone (on no device: nothing runs).

    TargetError where a block does not run once, as the one that all layers of an ALBERT share.
    """
    if embeddings_SH.device.type == "meta":
        width = getattr(body.config, "hidden_size", embeddings_SH.shape[1])
        return [embeddings_SH.new_empty(len(embeddings_SH), width) for _ in blocks]
    seen: list[Tensor] = []

    def remember(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"])[0].float())

    with evaluating(body), ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(remember, with_kwargs=True).remove)
        body(inputs_embeds=embeddings_SH[None].to(next(body.parameters()).dtype))
    if len(seen) != len(blocks):
        raise TargetError(
            f"prefix-layer replaces activations before every block, and a pass through {type(body).__name__} runs its "
            f"{len(blocks)} {len(seen)} times; choose prefix-embed"
        )
    return seen
