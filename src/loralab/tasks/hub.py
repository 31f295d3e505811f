"""Data sets from the Hugging Face Hub, for tasks that were given no path."""

from dataclasses import dataclass
from typing import Any

from loralab.errors import NotFoundError, first_line
from loralab.extras import lazy, require

datasets = lazy("datasets", "data")

PARQUET = "refs/convert/parquet"
"""The Hub's own branch with a data set as plain tables: no code of the data set's is run."""


@dataclass(frozen=True)
class HubSet:
    """A data set on the Hub, and where its official files are for those who cannot reach it."""

    task: str
    repository: str
    """Its id, e.g. "nyu-mll/glue"."""
    files: str
    """The official download's file names and page, for the error."""
    config: str | None = None
    """The part of the repository, e.g. "cola"."""

    def rows(self, split: str) -> list[dict[str, Any]]:
        """The rows of a split. Raises `NotFoundError` where the Hub or the data set cannot be reached."""
        require("data", f"reading {self.repository} from the Hub")
        try:
            return list(datasets.load_dataset(self.repository, self.config, revision=PARQUET, split=split))
        except (OSError, ValueError) as error:
            raise NotFoundError(
                f"task {self.task}: no --data was given, and {self.repository} could not be had from the Hub "
                f"({first_line(error)}); download the official files and give their folder as --data: {self.files}"
            ) from error
