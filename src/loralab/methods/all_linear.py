"""What the word `all-linear` means on a model, and what it leaves out: said before anything is trained.

It is every dense layer and every nn.MultiheadAttention but the output head and what is trained in full. A mixture of
experts keeps its matrices in raw parameters, which are no layers: they are adapted where they are named.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from loralab.core.names import modules_by_path
from loralab.core.updates.build import can_adapt
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import TargetError
from loralab.models.families.aliases import output_head_names
from loralab.nn.dense import dense_shape, is_dense
from loralab.nn.trial import UNRUNNABLE

ALL_LINEAR = "all-linear"


def all_linear(model: nn.Module, heads: Sequence[str]) -> list[str]:
    """Paths of all that it means; TargetError where there is nothing."""
    found = [path for path, module in _outside_heads(model, heads) if _is_taken(module)]
    if not found:
        raise TargetError("all-linear matches nothing: this model has no dense layers; name its modules in targets")
    return found


def left_out_notes(model: nn.Module, heads: Sequence[str], updates: Mapping[str, Update]) -> list[str]:
    """What to tell of experts, their routers, and layers that compute something else, unless they were named too."""
    places = dict(_outside_heads(model, heads))
    stacked = [
        f"{path}.{name}"
        for path, module in places.items()
        for name in _stacks(module)
        if path not in updates or name not in updates[path].parts
    ]
    dense = [path for path, each in places.items() if isinstance(each, nn.Linear) and path not in updates]
    odd = [path for path in dense if not _is_taken(places[path])]
    return [*_stack_notes(places, stacked, updates), *_odd_notes(places, odd)]


def _stack_notes(
    places: Mapping[str, nn.Module], stacked: Sequence[str], updates: Mapping[str, Update]
) -> Iterable[str]:
    if not stacked:
        return
    numbers = sum(_parameter(places, name).numel() for name in stacked)
    around = {path.rpartition(".")[0].rpartition(".")[0] for path in stacked}
    beside = [path for path in places if path.rpartition(".")[0] in around and path not in updates]
    routers = [f"{path}.{WHOLE}" for path in beside if _is_raw_matrix(places[path])]
    yield (
        f"all-linear leaves out {_named(stacked)}, raw parameters that stack the matrices of experts "
        f"({numbers:,} numbers){f', and their routers {_named(routers)}' if routers else ''}: they are no layers, "
        f"though PEFT adapts them under that word in some models. To train them, name them too: {_asked(stacked)}"
    )


def _odd_notes(places: Mapping[str, nn.Module], odd: Sequence[str]) -> Iterable[str]:
    if odd:
        kinds = ", ".join(sorted({type(places[path]).__name__ for path in odd}))
        yield f"all-linear leaves out {_named(odd)} ({kinds}), whose output is no plain product with its weight"


def _outside_heads(model: nn.Module, heads: Sequence[str]) -> Iterable[tuple[str, nn.Module]]:
    left_out = {*output_head_names(model), *heads}
    for path, module in modules_by_path(model).items():
        if not any(path == name or path.startswith(name + ".") for name in left_out):
            yield path, module


def _is_taken(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or (is_dense(module) and _gives_outputs(module))


@torch.no_grad()
def _gives_outputs(module: nn.Module) -> bool:
    """Whether a dense layer without weights (a plan's), with a forward of its own, gives one tensor of its outputs.

    One with weights was tried already (`is_dense`). Where the trial fails the layer counts as what it says it is.
    """
    own = isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward
    weight = getattr(module, WHOLE, None)
    if not own or not isinstance(weight, Tensor) or not weight.is_meta:
        return True
    outputs, inputs = dense_shape(module)
    try:
        found = type(module).forward(module, torch.zeros(2, inputs, dtype=weight.dtype, device="meta"))
    except UNRUNNABLE:
        return True
    return isinstance(found, Tensor) and found.shape == (2, outputs)


def _stacks(module: nn.Module) -> list[str]:
    """Names of a module's raw parameters that hold a matrix for each of several experts."""
    return [
        name
        for name, each in module._parameters.items()
        if each is not None and each.dim() == 3 and min(each.shape) > 1 and not can_adapt(module)
    ]


def _is_raw_matrix(module: nn.Module) -> bool:
    weight = module._parameters.get(WHOLE)
    dense = isinstance(module, nn.Linear) or can_adapt(module)
    return weight is not None and weight.dim() == 2 and not dense


def _parameter(places: Mapping[str, nn.Module], name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    parameter = places[path]._parameters[leaf]
    assert parameter is not None
    return parameter


def _named(names: Sequence[str]) -> str:
    """Names with `*` for the numbers of layers, each once."""
    return ", ".join(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))


def _asked(names: Sequence[str]) -> str:
    """What to write as targets: all-linear, and each parameter by its last two names."""
    return ",".join([ALL_LINEAR, *dict.fromkeys(".".join(name.split(".")[-2:]) for name in names)])
