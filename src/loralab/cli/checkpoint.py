"""`--checkpoint`: in every verb of one adapter, a run's checkpoint in place of the adapter that it ended with."""

from dataclasses import fields, replace
from typing import Any, TypeVar

from loralab.formats.checkpoints import checkpoint_folder, refuse_unfinished

Config = TypeVar("Config", bound=Any)
NAMES = ("adapter", "src")
"""The fields that name one adapter."""


def at_checkpoint(config: Config) -> Config:
    """The configuration with the checkpoint's folder as its adapter. Raises what `checkpoint_folder` raises, and for a
    run that did not end what `refuse_unfinished` does."""
    name = next((each.name for each in fields(config) if each.name in NAMES), None)
    adapter = None if name is None else getattr(config, name)
    if name is None or not isinstance(adapter, str):
        return config
    word = getattr(config, "checkpoint", None)
    if word is None:
        refuse_unfinished(adapter)
        return config
    return replace(config, **{name: str(checkpoint_folder(adapter, word))}, checkpoint=None)
