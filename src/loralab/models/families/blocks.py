"""The blocks of a model as modules: what is computed, gathered or planned one after another."""

from typing import Any

from torch import nn

from loralab.errors import SpecError
from loralab.models.families.aliases import block_paths


def blocks_of(model: nn.Module, asked: str = "shard") -> list[nn.Module]:
    """What the model's own class says is not to be split, or the lists of layers of its family.

    Raises SpecError for a model of which neither is known, in the name of the setting that asked for them.
    """
    whole: Any = getattr(model, "_no_split_modules", None) or ()
    found = [module for module in model.modules() if type(module).__name__ in whole]
    inner = {id(module) for block in found for module in block.modules() if module is not block}
    outermost = [block for block in found if id(block) not in inner]
    blocks = outermost or [block for path in block_paths(model) for block in model.get_submodule(path).children()]
    if not blocks:
        raise SpecError(
            f"{asked}: the blocks of {type(model).__name__} are not known: its class names none in _no_split_modules, "
            f"and no family of ours has them; leave {asked} out"
        )
    return blocks
