"""Paths in a folder, as attributes of the class that stands for it."""

from pathlib import Path
from typing import Protocol


class HasPath(Protocol):
    """Stands for a folder."""

    @property
    def path(self) -> Path:
        """Where it is."""


class Inside:
    """What has this name in the folder: of a class with a `path`, `record = Inside("run.json")` is its record's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: HasPath, owner: type) -> Path:
        return folder.path / self.name
