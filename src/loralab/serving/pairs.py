"""An adapter from disk as the engine takes it: a pair A, s·B for every module it adapts, or a refusal by name."""

from collections.abc import Container
from pathlib import Path

import torch
from torch import nn

from loralab.errors import AdapterFileError, AdapterStateError, listed
from loralab.formats.read import read_adapter
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.low_rank import pair_of, why_not_beside_others


def read_pairs(path: Path, model: nn.Module, with_rows: Container[str]) -> Pairs:
    """The pairs by module path, in float32, of an adapter that was trained on `model`, which is not changed;
    `with_rows` are the paths of the modules that have an input for every row of a batch.

    Raises what `load` raises for files that are damaged or of another base; AdapterStateError for an adapter that is
    more than low-rank updates of linear layers; AdapterFileError for one that does nothing.
    """
    stored = read_adapter(path).demand()
    plan = stored.layout.place(stored, model)
    if stored.sidecar is not None:
        stored.sidecar.check_base(plan.updates, model)
    _refuse_others(
        path,
        {name: why for name, each in plan.updates.items() if (why := why_not_beside_others(each, name in with_rows))},
    )
    with torch.no_grad():
        pairs = {name: pair_of(each.eval()) for name, each in plan.updates.items()}
    if not any(bool(B.any()) and bool(A.any()) for A, B in pairs.values()):
        raise AdapterFileError(
            f"adapter {path.name} does nothing: every update in it is zero; train it, or take it away"
        )
    return pairs


def _refuse_others(path: Path, refused: dict[str, str]) -> None:
    if refused:
        examples = listed([f"{name}: {why}" for name, why in refused.items()], 3)
        raise AdapterStateError(
            f"adapter {path.name} cannot be served beside others: it is more than low-rank updates of linear layers "
            f"({examples}); merge it into its base and serve that"
        )
