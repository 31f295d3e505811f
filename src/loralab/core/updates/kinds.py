"""The kinds of update there are, in the words that files use.

Five are of low rank, named for what they update; the others replace tensors, or put something into the model.
"""

from typing import Literal, get_args

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
KINDS: tuple[Kind, ...] = get_args(Kind)
