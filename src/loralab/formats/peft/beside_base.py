"""Settings of a PEFT configuration whose meaning only the base model tells: `ensure_weight_tying` and `lora_bias`.

    ensure_weight_tying   nothing, unless a module is touched whose weight is another's too
    lora_bias             B has a bias b: h = W·x + bias + s·(B·A·x + b), so that bias' = bias + s·b says the same

Both are read into what we have anyway: the first is dropped, the second becomes the trained bias of its layer. A dense
layer that has none gets one of its own (`BiasedLinear`), which no file of PEFT's but such a one can say.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loralab.core.names import inside, modules_by_path
from loralab.core.updates.low_rank import BiasedLinear
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError, some
from loralab.files.tensors import of_shape
from loralab.formats.peft.config import LORA_BIAS, MERGE, TYING, PeftConfig
from loralab.formats.peft.keys import PeftTarget, Plot, tensor_key
from loralab.methods.beside import tied_paths
from loralab.nn.dense import dense_shape, is_dense
from loralab.nn.tensors import wide

BIAS_OF_B = "lora_B.bias"


def refuse_tied(model: nn.Module, plot: Plot) -> None:
    """AdapterFileError where `ensure_weight_tying` has PEFT give tied modules one adapter."""
    ties = tied_paths(model)
    touched = {*plot.depths, *(path for path in ties if inside(path, plot.heads))}
    rows = {path: leader or path for path, (_, leader) in plot.tokens.items()}
    tied = [path for path in ties if path in touched]
    tied += [path for path in rows if any(rows.get(other, rows[path]) != rows[path] for other in ties.get(path, ()))]
    if tied:
        pairs = "; ".join(f"{path} with {', '.join(ties[path])}" for path in tied)
        raise AdapterFileError(
            f"{TYING} is true, and the adapter touches modules that share their weight with others ({pairs}): PEFT "
            f"gives all of them one adapter, which has no equal here: {MERGE}; or train again with other targets"
        )


def fold_biases(model: nn.Module, config: PeftConfig, plot: Plot, tensors: dict[str, Tensor]) -> list[str]:
    """Put bias + s·b in the place of every b among the file's tensors, and say so; AdapterFileError where it cannot."""
    problems = [why for target in plot.targets if (why := _why_no_bias(target, config, plot, tensors))]
    if problems:
        raise AdapterFileError(f"{LORA_BIAS} is true, but {'; '.join(problems)}")
    by_path = modules_by_path(model)
    with_bias = [target for target in plot.targets if not needs_bias(target.module)]
    for target in with_bias:
        b = tensors.pop(plot.stem(target) + BIAS_OF_B)
        key = tensor_key(target.path, "bias", plot.depths)
        start = tensors.get(key, _bias(by_path[target.path]))
        tensors[key] = _sum(start, b, config.recipe(target.name).scale)
    return [
        f"{LORA_BIAS}: the bias of B, times the scale, is here a part of the layer's own trained bias, and it is saved "
        "as that (bias: lora_only); it computes the same",
        *_notes_of_none([target.path for target in plot.targets if target not in with_bias]),
    ]


def needs_bias(module: nn.Module) -> bool:
    """Whether a bias of B has no bias of the layer's to become a part of."""
    return module._parameters.get("bias") is None


def expected_biases(plot: Plot) -> dict[str, Tensor]:
    """Key → the like of each b that no layer's bias takes up."""
    own = [target for target in plot.targets if needs_bias(target.module)]
    return {plot.stem(target) + BIAS_OF_B: of_shape(dense_shape(target.module)[:1]) for target in own}


def fill_biases(updates: Mapping[str, Update], config: PeftConfig, plot: Plot, tensors: Mapping[str, Tensor]) -> None:
    """Give the updates that have a bias of their own theirs: s·b."""
    for target in plot.targets:
        update = updates[target.path]
        if isinstance(update, BiasedLinear):
            b = tensors[plot.stem(target) + BIAS_OF_B]
            update.set_bias(config.recipe(target.name).scale * b.to(wide(b)))


def _notes_of_none(paths: list[str]) -> list[str]:
    if not paths:
        return []
    return [
        f"{LORA_BIAS}: {some(paths)} have no bias: the adapter brings one, "
        "which no weight can take up and which is saved in loralab's own layout"
    ]


def _sum(start: Tensor, b: Tensor, scale: float) -> Tensor:
    with torch.no_grad():
        return start.detach().to(b.device, wide(start)) + scale * b.to(wide(b))


def _bias(module: nn.Module) -> Tensor:
    bias = module._parameters["bias"]
    assert bias is not None
    return bias


def _why_no_bias(target: PeftTarget, config: PeftConfig, plot: Plot, tensors: Mapping[str, Tensor]) -> str | None:
    own = target.module._parameters.get("bias")
    key = plot.stem(target) + BIAS_OF_B
    if target.parameter is not None or isinstance(target.module, (nn.MultiheadAttention, nn.Embedding)):
        return f"{target.name} is neither a dense layer nor a convolution: it has no bias that s·b could be added to"
    if own is None and not is_dense(target.module):
        return (
            f"{target.path} has no bias that s·b could be added to (PEFT cannot merge it either): train it again "
            "without, or give the base's layer a bias of zeros before loading"
        )
    if key not in tensors:
        return f"{key} is missing from the file"
    if own is not None and tensors[key].shape != own.shape:
        return f"{key} is {list(tensors[key].shape)}, where the layer's bias is {list(own.shape)}"
    twice = tensor_key(target.path, "bias", plot.depths)
    if config.bias == "none" and twice in tensors:
        return f"the file holds {twice} too, though bias is 'none'"
    return None
