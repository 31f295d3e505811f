"""Trained rows of embeddings as loralab.json records them, and filled from a file."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loralab.core.updates.tokens import TokenUpdate, link_tokens
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError
from loralab.files.values import sizes, text

Rows = tuple[tuple[int, ...], str]
"""The indices of a module's trained rows, and the path of the module whose rows it shares, or nothing."""


def recorded_rows(settings: Mapping[str, Any]) -> Rows:
    """From the settings of a `TokenUpdate`; TypeError for what cannot be."""
    indices = sizes(settings.get("indices"), "indices")
    if not indices or len(set(indices)) < len(indices):
        raise TypeError(f"indices is {list(indices)}, and must name rows, each once")
    return indices, text(settings.get("follows", ""), "follows")


def check_leaders(rows: Mapping[str, Rows]) -> None:
    """TypeError where a module is recorded to share rows that no other module has, or has others of."""
    for path, (indices, follows) in rows.items():
        if follows and rows.get(follows) != (indices, ""):
            raise TypeError(f"{path} follows {follows}, which has no such rows of its own")


def fill_rows(updates: Mapping[str, Update], values: Mapping[str, Tensor]) -> None:
    """Give every module its rows, and those that follow another the other's."""
    for path, rows in values.items():
        update = updates[path]
        assert isinstance(update, TokenUpdate)
        if update.follows and not torch.equal(rows, values[update.follows]):
            raise AdapterFileError(
                f"the rows of {path} in the file are not those of {update.follows}, which its weight is tied to "
                "here; load the model with the two untied (tie_word_embeddings=False), or remove those of one"
            )
        update.take(rows)
    link_tokens(updates)
