"""What enters chosen layers of a model, batch by batch: only real positions, and a shared input only once.


Shapes: B sequences, T positions, N real positions of a batch, I features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.adapter import adapters_on
from loralab.core.attach import disabled
from loralab.core.math import as_rows
from loralab.core.names import modules_by_path
from loralab.errors import SpecError
from loralab.nn.mode import evaluating
from loralab.nn.targets import IGNORED

Visit = Callable[[str, Tensor], None]
"""(path of the layer, its inputs [N, I]) → None."""


@dataclass
class InputWatch:
    """Hooks on the layers at `paths`; `visit` is called for the first layer of those that are given the same tensor."""

    paths: Sequence[str]
    visit: Visit
    owner: dict[str, str] = field(default_factory=dict)
    """Layer → the layer whose inputs are its own: itself, or one that was given the very same tensor just before."""
    real: Tensor | None = None
    """[B, T], which positions of the batch count; None: all."""
    _last: tuple[str, Tensor] | None = None

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Within this block the hooks are on the model."""
        by_path = modules_by_path(model)
        handles = [by_path[path].register_forward_pre_hook(self._hook(path)) for path in self.paths]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def unseen(self) -> list[str]:
        """Layers that have not run yet."""
        return [path for path in self.paths if path not in self.owner]

    def new_batch(self, real: Tensor | None) -> None:
        """The next forward pass is of a batch with these real positions."""
        self.real, self._last = real, None

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def look(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x: Tensor = inputs[0]
            same = self._last is not None and self._last[1] is x
            owner = self.owner.setdefault(path, self._last[0] if same and self._last else path)
            if owner != path:
                self._check_still_same(path, owner, x)
                return
            self._last = (path, x)
            self.visit(path, rows_of(x, self.real, path))

        return look

    def _check_still_same(self, path: str, owner: str, x: Tensor) -> None:
        if self._last is None or self._last[0] != owner or self._last[1] is not x:
            raise SpecError(
                f"{path} was given the same input as {owner} in one batch and another one in the next: a model that "
                "routes its inputs by their content cannot start from them; leave these layers out"
            )


def rows_of(x: Tensor, real_BT: Tensor | None, path: str) -> Tensor:
    """A layer's input [B, T, I], or flat [B·T, I], as rows [N, I] of its real positions.

    An input with one row per sequence, as a classification head's, is taken whole. SpecError for any other shape.
    """
    if real_BT is None:
        return as_rows(x)
    if x.shape[:-1] == real_BT.shape:
        return x[real_BT]
    if x.shape[:-1] == (real_BT.numel(),):
        return x[real_BT.flatten()]
    if x.dim() == 2 and len(x) == len(real_BT):
        return x
    raise SpecError(
        f"the batch has {list(real_BT.shape)} positions, but the input of {path} is of shape {list(x.shape)}, so which "
        "of its rows are padding cannot be told; leave this layer out"
    )


def real_positions(batch: Mapping[str, Tensor], label_mask: bool) -> Tensor | None:
    """[B, T], true where a token is real and, with `label_mask`, where there is a label of it; None: every row counts.

    A token counts by the label at its own place, as in PEFT: the targets themselves, and not the tokens that
    predict them.
    """
    mask, labels = batch.get("attention_mask"), batch.get("labels")
    real = None if mask is None else mask.bool()
    tokens = batch.get("input_ids")
    if label_mask and labels is not None and tokens is not None and labels.shape == tokens.shape:
        return labels != IGNORED if real is None else real & (labels != IGNORED)
    return real


@contextmanager
def base_alone(model: nn.Module) -> Iterator[None]:
    """Within this block the model is its base, without dropout and without gradients."""
    others = disabled(model) if adapters_on(model).adapters else nullcontext()
    with torch.no_grad(), evaluating(model), others:
        yield


def run(model: nn.Module, paths: Sequence[str], batch: Mapping[str, Tensor]) -> None:
    """One forward pass over a batch, of the body alone where all layers are in it; the labels are left out."""
    prefix = getattr(model, "base_model_prefix", "")
    body = getattr(model, prefix, None) if prefix else None
    inside = isinstance(body, nn.Module) and all(path.startswith(f"{prefix}.") for path in paths)
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
    (body if inside and body is not None else model)(**inputs)
