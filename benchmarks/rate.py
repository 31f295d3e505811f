"""How fast this processor multiplies matrices of a model's own shapes: what a training step is held against."""

import time
from collections import Counter
from typing import Any

Shapes = Counter[tuple[int, int]]
"""(O, I) of dense layers, and how many there are of each."""


def dense_shapes(model: Any) -> Shapes:
    """Of the dense layers, without the output head."""
    from loralab.nn.dense import dense_shape, is_dense

    head = model.get_output_embeddings()
    return Counter(dense_shape(each) for each in model.modules() if each is not head and is_dense(each))


def weights(shapes: Shapes) -> int:
    """In all of them."""
    return sum(count * outputs * inputs for (outputs, inputs), count in shapes.items())


def product_rate(shapes: Shapes, rows: int, dtype: Any) -> float:
    """Operations a second of x·Wᵀ and g·W for so many rows, each shape as often as it is there; the best of four."""
    import torch

    work, spent = 0.0, 0.0
    for (o, i), count in shapes.items():
        x, weight, g = (torch.randn(*shape).to(dtype) for shape in ((rows, i), (o, i), (rows, o)))
        best = []
        for _ in range(4):
            started = time.perf_counter()
            _ = x @ weight.T, g @ weight
            best.append(time.perf_counter() - started)
        work, spent = work + count * 4.0 * rows * o * i, spent + count * min(best)
    return work / spent
