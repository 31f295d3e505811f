"""The base's weight of a module as the matrix that its update is added to. It knows nothing of adapters."""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loralab.core.names import modules_by_path
from loralab.errors import SpecError
from loralab.formats.record import Runs, rows_of


def base_matrix(model: nn.Module, name: str, shape: tuple[int, int], rows: Runs | None = None) -> Tensor:
    """W [O, I] of the module `name`, in float64: `y = W·x`, whichever way round the module stores it.

    `shape` is that of its update, which may be of some of its `rows`. Raises SpecError where the model has no such
    module, or none of that shape.
    """
    module = modules_by_path(model).get(name)
    weight = None if module is None else getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise SpecError(
            f"the adapter changes {name}, of which this model has no weight of its own to compare with; give the base "
            "model that it was trained on, or leave the module out with --modules"
        )
    stored_transposed = isinstance(module, Conv1D | nn.Embedding)
    W_OI = weight.detach().flatten(1).T if stored_transposed else weight.detach().flatten(1)
    if rows is not None:
        W_OI = W_OI[rows_of(rows)]
    if W_OI.shape != shape:
        raise SpecError(
            f"the update of {name} is {list(shape)}, the model's weight there is {list(W_OI.shape)}: the adapter was "
            "trained on another model"
        )
    return W_OI.to("cpu", torch.float64)
