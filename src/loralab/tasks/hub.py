"""Data sets from the Hugging Face Hub, for tasks that were given no path. It knows nothing of tasks."""

from importlib import import_module
from typing import Any

from loralab.errors import NotFoundError

PARQUET = "refs/convert/parquet"
"""The Hub's own branch with a data set as plain tables: no code of the data set's is run."""


def hub_rows(task: str, repository: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split. Raises `NotFoundError` where the Hub or the data set cannot be reached.

    `datasets` is imported here and not above: with it come pandas and pyarrow, a hundred megabytes that a
    training run on local files should not carry.
    """
    datasets = import_module("datasets")
    try:
        return list(datasets.load_dataset(repository, revision=PARQUET, split=split))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotFoundError(
            f"task {task}: no --data was given, and {repository} could not be had from the Hub ({reason}); "
            "give --data with the official files"
        ) from error
