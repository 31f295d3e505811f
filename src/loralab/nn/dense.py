"""Dense layers of any class: torch's, transformers' Conv1D, whose weight is stored [I, O], quantised and foreign ones.

Shapes: O outputs, I inputs.
"""

from torch import Tensor, nn

from loralab.nn.tensors import tensor_of
from loralab.nn.trial import gives_rows, is_product, is_transformers_conv1d


def is_dense(module: nn.Module) -> bool:
    """A dense layer: nn.Linear, transformers' Conv1D, or what has the attributes of one and computes the same.

    A subclass of nn.Linear that does more with its product is one too; one that returns no such tensor is not.
    """
    if is_stored_transposed(module):
        return True
    sizes = [getattr(module, name, None) for name in ("in_features", "out_features")]
    if not all(isinstance(size, int) for size in sizes) or not isinstance(getattr(module, "weight", None), Tensor):
        return False
    inputs, outputs = (int(str(size)) for size in sizes)
    if isinstance(module, nn.Linear) or not tensor_of(module, "weight").is_floating_point():
        return gives_rows(module, inputs, outputs)
    return is_product(module, inputs, outputs)


def dense_shape(module: nn.Module) -> tuple[int, int]:
    """(O, I) of a dense layer, also where its weight is stored transposed or packed by quantisation."""
    if is_stored_transposed(module):
        inputs, outputs = tensor_of(module, "weight").shape
        return int(outputs), int(inputs)
    return int(getattr(module, "out_features")), int(getattr(module, "in_features"))  # noqa: B009


def is_stored_transposed(module: nn.Module) -> bool:
    """Whether it is a dense layer that computes x·W + bias with its weight [I, O]."""
    if type(module).__name__ != "Conv1D" or not hasattr(module, "nf"):
        return False
    inputs, outputs = tensor_of(module, "weight").shape
    return is_transformers_conv1d(module) or is_product(module, inputs, outputs, stored_transposed=True)


def weight_OI(module: nn.Module) -> Tensor:
    """The weight of a dense layer as it is, detached, with the outputs first."""
    weight = tensor_of(module, "weight").detach()
    return weight.T if is_stored_transposed(module) else weight
