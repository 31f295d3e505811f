"""Tied weights: one tensor that several modules share, and what adapting one of them means for the others."""

from collections.abc import Mapping

from torch import nn

from loralab.core.names import modules_by_path
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import Update, tensor_of


def tied_paths(model: nn.Module) -> dict[str, list[str]]:
    """Module path → the other modules that hold the very same weight tensor."""
    holders: dict[int, list[str]] = {}
    for path, module in modules_by_path(model).items():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.dim() > 1:
                holders.setdefault(id(parameter), []).append(path)
    return {path: [p for p in paths if p != path] for paths in holders.values() if len(paths) > 1 for path in paths}


def tie_notes(model: nn.Module, updates: Mapping[str, Update]) -> list[str]:
    """What to tell the user about adapted modules whose weight is tied to another's."""
    ties = tied_paths(model)
    apart = {path: [other for other in ties.get(path, ()) if not share_rows(updates, path, other)] for path in updates}
    return [
        f"{path} shares its weight with {', '.join(others)}: the update applies to {path} alone, "
        "and merging unties the two"
        for path, others in apart.items()
        if others
    ]


def share_rows(updates: Mapping[str, Update], *paths: str) -> bool:
    """Whether these modules have the same rows trained, and nothing else of their weight."""
    rows = {path: update for path in paths if isinstance(update := updates.get(path), TokenUpdate)}
    return len(rows) == len(paths) and len({update.follows or path for path, update in rows.items()}) == 1


def share_ties(updates: Mapping[str, Update], by_path: Mapping[str, nn.Module]) -> None:
    """Let tensors that are one tensor in the base have one trained copy, where several updates replace them."""
    copies: dict[int, nn.Parameter] = {}
    for path, update in updates.items():
        for name, tensor in update.replacements().items():
            if isinstance(tensor, nn.Parameter):
                first = copies.setdefault(id(tensor_of(by_path[path], name)), tensor)
                update.share(name, first)
