"""What a kernel is given: it reads memory by addresses, and would read numbers of another type as what they are not."""

import torch
from torch import Tensor


def refuse_other_numbers(dtype: torch.dtype, *tensors: Tensor) -> None:
    """TypeError for a tensor that a kernel of this type cannot read."""
    for tensor in tensors:
        if tensor.dtype != dtype or tensor.device.type != "cpu":
            raise TypeError(f"a kernel for {dtype} on the CPU was given {tensor.dtype} on {tensor.device.type}")
