"""A model's blocks compiled by `torch.compile` for the passes that train.

Blocks are of one class, so one compilation serves all of them, and sizes are symbols in it, so batches of every length
do: few shapes are ever compiled. Passes without gradients (evaluation, answers with a cache) stay as they are. It knows
nothing of adapters: an adapted layer is traced as any module.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._inductor.config
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed, Unsupported

from loralab.errors import TrainingError, first_line
from loralab.models.families.blocks import blocks_of

MOST_SHAPES = 16
"""Compilations of one function; what would need another one is computed as it is written."""


@contextmanager
def compiled_blocks(model: nn.Module) -> Iterator[str]:
    """Within this the blocks are compiled where they train; yields a sentence saying so.

    Raises SpecError for a model whose blocks are not known.
    """
    blocks = blocks_of(model, "compile")
    for block in blocks:
        block.forward = _where_it_trains(block, block.forward)
    try:
        with _torch_unwarned(), torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
            yield f"compile: {len(blocks)} blocks are compiled for any length of batches, in the first steps"
    finally:
        for block in blocks:
            del block.forward
        torch.compiler.reset()


@contextmanager
def _torch_unwarned() -> Iterator[None]:
    """Without what the compiler's own files say of their age."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")
        yield


def why_not_compiled(device: torch.device) -> str | None:
    """Why torch.compile finds no compiler for this device that works; None where it does. Takes seconds."""
    try:
        with (
            _torch_unwarned(),
            torch._inductor.config.patch(force_disable_caches=True),
        ):  # what an earlier compiler made says nothing
            torch.compile(_tiny)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        return f"{type(error).__name__}, {first_line(error)}"
    finally:
        torch.compiler.reset()
    return None


def _tiny(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1


def _where_it_trains(block: nn.Module, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The block's forward, compiled where gradients are wanted of a block in training mode."""
    compiled = torch.compile(plain, dynamic=True)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return plain(*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except (BackendCompilerFailed, Unsupported) as error:
            raise TrainingError(
                f"compile: {type(block).__name__} cannot be compiled ({first_line(error)}); leave compile out"
            ) from error

    return forward
