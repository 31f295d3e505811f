"""Full fine-tuning, of everything or of the top blocks only (paper §5.1: FT and FT-Top2).

The pretrained tensors stay where they are, so that `disabled` and `detach` give them back: what trains is a copy in
float32, which the modules compute with in the model's own precision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from loralab.core.names import modules_by_path, unwrapped
from loralab.core.plan import Plan
from loralab.core.updates.update import Update
from loralab.errors import SpecError, TargetError
from loralab.methods.beside import head_updates, heads_of, refuse_quantized, saved_in_full, share_ties
from loralab.methods.specification import Specification
from loralab.models.families.aliases import block_paths
from loralab.nn.statistics import has_statistics, statistics_of


@dataclass(frozen=True)
class FullFineTune(Specification):
    """Every parameter trains; with `top_layers` only those of the last blocks. Tied weights stay tied."""

    top_layers: int | None = None
    """Train this many of the last blocks instead of everything: 2 for FT-Top2."""
    modules_to_save: Sequence[str] | None = None
    """The task's head, trained with the top layers and counted apart. None: it is found."""

    def problems(self) -> list[str]:
        if self.top_layers is None or self.top_layers >= 1:
            return []
        return [f"top_layers is {self.top_layers}; at least 1 is needed, or None to train everything"]

    def plan(self, model: nn.Module) -> Plan:
        """A trained copy of every parameter in the chosen modules."""
        refuse_quantized(model, "full fine-tuning")
        heads = heads_of(model, self.modules_to_save)
        by_path = modules_by_path(model)
        if self.top_layers is None:
            updates, owners = dict[str, Update](), _owners(unwrapped(model), "")
        else:
            updates, tops = head_updates(model, heads), _top_blocks(model, self.top_layers)
            owners = (owner for top in tops for owner in _owners(by_path[top], f"{top}."))
        updates |= {path: saved_in_full(module, statistics_of(module)) for path, module in owners}
        share_ties(updates, by_path)
        return Plan(updates, (), tuple(heads))


def _owners(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules below `module` that hold parameters or running statistics of their own, once each."""
    if any(parameter is not None for parameter in module._parameters.values()) or has_statistics(module):
        if not prefix:
            raise TargetError(
                f"full fine-tuning was asked of a bare {type(module).__name__}, whose own parameters cannot be "
                "replaced from outside; put it inside another module"
            )
        yield prefix.removesuffix("."), module
        return
    seen: set[int] = set()
    for name, child in module._modules.items():
        inner = None if child is None else unwrapped(child)
        if inner is not None and id(inner) not in seen:
            seen.add(id(inner))
            yield from _owners(inner, f"{prefix}{name}.")


def _top_blocks(model: nn.Module, count: int) -> list[str]:
    """Paths of the last `count` blocks (of an encoder-decoder: of the decoder)."""
    lists = block_paths(model)
    if not lists:
        raise TargetError(
            f"top_layers {count}: it is not known where the blocks of {type(unwrapped(model)).__name__} are; train "
            "everything, or adapt modules by name with LoRA"
        )
    blocks = [path for path in modules_by_path(model) if path.rpartition(".")[0] == lists[-1]]
    if len(blocks) < count:
        raise SpecError(f"top_layers {count}: {lists[-1]} has only {len(blocks)} blocks")
    return blocks[-count:]
