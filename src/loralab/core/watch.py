"""Whether the adapted layers are called: a model may read a layer's weight itself and pass the layer's forward by.

Such a layer (Mamba's `conv1d`, DeBERTa's `rel_embeddings`) computes nothing, so its update would do nothing. During one
forward pass of the model, at best one made for the purpose when the adapter comes, every layer that is called and
every weight that is used from outside is written down. It knows layers by what they are, not by their paths.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loralab.errors import LoralabError
from loralab.nn.mode import evaluating
from loralab.nn.trial import UNRUNNABLE

_SIZES = ("size", "dim", "numel", "nelement", "stride", "storage_offset", "element_size")
_FORM = (*_SIZES, "get_device", "type", "data_ptr")
_QUESTIONS = ("is_floating_point", "is_complex", "is_contiguous", "untyped_storage", "__len__", "__hash__", "__repr__")
_ALIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "type_as")
_NEW = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
_ASKS_ONLY = frozenset((*_FORM, *_QUESTIONS, *_ALIKE, *_NEW))
"""Functions that ask for a tensor's form, not for its values."""


class Watch:
    """What happens to the adapted layers in one forward pass."""

    def __init__(self) -> None:
        self.called: set[nn.Module] = set()
        self.read: set[nn.Module] = set()

    def spied(self, layer: nn.Module, tensor: Tensor) -> Tensor:
        """This tensor, which tells when something computes with it."""
        seen = tensor.detach().as_subclass(_Spied)
        seen.tell = lambda: self.read.add(layer)
        return seen


class _Spied(Tensor):
    """A weight that is being watched; what is computed of it is a plain tensor."""

    tell: Callable[[], None]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        name = func.__name__
        asked = name in _ASKS_ONLY or (name == "to" and not isinstance(args[0], cls))
        if not asked and (name != "__get__" or isinstance(result, Tensor)):
            for each in _flat((args, kwargs or {})):
                if isinstance(each, cls):
                    each.tell()
        return result


def _flat(nest: object) -> Iterator[object]:
    """What lies in tuples, lists and dicts."""
    if isinstance(nest, (tuple, list)):
        for each in nest:
            yield from _flat(each)
    elif isinstance(nest, dict):
        yield from _flat(list(nest.values()))
    else:
        yield nest


def pass_through(model: nn.Module) -> None:
    """Run a model on the inputs that it names itself (`dummy_inputs`, as those of transformers do), if it does so."""
    inputs = _inputs(model)
    if inputs is None:
        return
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            model(**inputs)
        except LoralabError:
            raise
        except UNRUNNABLE:
            return


def _inputs(model: nn.Module) -> dict[str, Tensor] | None:
    config, weight = getattr(model, "config", None), next(model.parameters(), None)
    named = getattr(model, "dummy_inputs", None)
    text = getattr(config, "get_text_config", lambda: config)()
    vocabulary = getattr(text, "vocab_size", None)
    if not isinstance(named, dict) or not isinstance(vocabulary, int) or weight is None or weight.is_meta:
        return None
    if any(not isinstance(each, Tensor) or each.is_floating_point() for each in named.values()):
        return None
    return {name: (each if "mask" in name else each % vocabulary).to(weight.device) for name, each in named.items()}
