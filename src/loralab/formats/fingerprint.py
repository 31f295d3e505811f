"""What the base model was that an adapter was trained on: classes, shapes and a content hash of the adapted weights.

The hash is of the values rounded to bfloat16, so that one checkpoint gives one hash whether it is loaded in bfloat16
or in float32. Loaded in float16 its values are rounded otherwise; then a sketch of nine numbers per tensor (the
Euclidean norm and eight strided sums) is compared with a tolerance instead.
"""

import hashlib
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from loralab.core.names import class_name, inside, modules_by_path, unwrapped
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import FingerprintError, listed
from loralab.files.values import listing, mapping, number, sizes, text
from loralab.nn.tensors import has_tensor, tensor_of
from loralab.progress import tracked

STRIDE = 8
SAMPLED = 256
"""Values, or somewhat more, that tell a tensor whose print is remembered from what was written over it."""
SKETCHED = 1 + STRIDE
"""Numbers of a sketch."""
TOLERANCE = 2.0**-9
"""How far sketches may differ, relative to the norm: float16 rounds each value to 2⁻¹¹ of itself."""


@dataclass(frozen=True)
class TensorPrint:
    """One tensor of the base: its shape, dtype, hash and sketch."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str
    sketch: tuple[float, ...]

    @staticmethod
    def of(tensor: Tensor) -> "TensorPrint":
        """The print of a tensor; one that is quantised has its raw values hashed and no sketch."""
        values = tensor.detach().cpu().contiguous()
        dtype = str(values.dtype).removeprefix("torch.")
        if not values.is_floating_point():
            return TensorPrint(tuple(values.shape), dtype, _hash(values), ())
        return TensorPrint(tuple(values.shape), dtype, _hash(values.to(torch.bfloat16)), _sketch(values))

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "TensorPrint":
        """The inverse of `asdict`; raises KeyError or TypeError for another shape of content."""
        sketch = tuple(number(each, "sketch") for each in listing(content["sketch"], "sketch"))
        if len(sketch) not in (0, SKETCHED):
            raise TypeError(f"sketch has {len(sketch)} numbers, not {SKETCHED} or none")
        return TensorPrint(
            sizes(content["shape"], "shape"), text(content["dtype"], "dtype"), text(content["sha256"], "sha256"), sketch
        )

    def difference(self, other: "TensorPrint") -> str | None:
        """What sets another tensor apart from this one, or None if they are the same weights."""
        if self.shape != other.shape:
            return f"has shape {list(other.shape)}, was {list(self.shape)}"
        if self.sha256 == other.sha256 or self._is_close(other):
            return None
        return "holds other values"

    def _is_close(self, other: "TensorPrint") -> bool:
        if self.dtype == other.dtype or "float16" not in (self.dtype, other.dtype) or not self.sketch:
            return False
        bound = TOLERANCE * self.sketch[0]
        return all(abs(a - b) <= bound for a, b in zip(self.sketch, other.sketch, strict=True))


@dataclass(frozen=True)
class Fingerprint:
    """The base model as the adapter sees it: prints of the adapted tensors by name, and the classes that hold them."""

    tensors: Mapping[str, TensorPrint]
    classes: Mapping[str, str]
    model_class: str | None = None
    model_type: str | None = None

    @property
    def digest(self) -> str:
        """One short word for all the adapted weights."""
        lines = [f"{name} {each.sha256}" for name, each in sorted(self.tensors.items())]
        return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the digest."""
        return asdict(self) | {"digest": self.digest}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Fingerprint":
        """The inverse of `to_json`; raises KeyError or TypeError for another shape of content."""
        prints = mapping(content["tensors"], "tensors")
        classes = mapping(content["classes"], "classes")
        model_class, model_type = (content.get(name) for name in ("model_class", "model_type"))
        return Fingerprint(
            {name: TensorPrint.from_json(mapping(each, name)) for name, each in prints.items()},
            {path: text(kind, path) for path, kind in classes.items()},
            None if model_class is None else text(model_class, "model_class"),
            None if model_type is None else text(model_type, "model_type"),
        )

    def retaken(self, model: nn.Module) -> "Fingerprint":
        """The fingerprint of the same tensors in this model, as far as it has them."""
        by_path, chosen = modules_by_path(model), []
        for path in self.classes:
            names = [name.removeprefix(f"{path}.") for name in self.tensors if name.startswith(f"{path}.")]
            if path in by_path:
                module = by_path[path]
                chosen.append((path, module, [name for name in names if has_tensor(module, name)]))
        return fingerprint(chosen, unwrapped(model))

    def check(self, other: "Fingerprint") -> None:
        """FingerprintError naming all modules in which the base differs from the one this was taken of."""
        differing = [
            f"{path} is {other.classes.get(path)}, was {kind}"
            for path, kind in self.classes.items()
            if other.classes.get(path) != kind
        ]
        for name, each in self.tensors.items():
            there = other.tensors.get(name)
            difference = "is missing" if there is None else each.difference(there)
            if difference:
                differing.append(f"{name} {difference}")
        if differing:
            raise FingerprintError(
                f"the adapter was trained on another base model ({self._model()}) than this one ({other._model()}): "
                f"{listed(differing, 8)}. Load it into the base it belongs to, or pass allow_other_base=True if you "
                "mean it"
            )

    def _model(self) -> str:
        return f"{self.model_class or 'class not recorded'}, {self.digest}"


def fingerprint(adapted: Iterable[tuple[str, nn.Module, Iterable[str]]], model: nn.Module | None) -> Fingerprint:
    """The fingerprint of (path, module, names of its adapted tensors), and of the model's class where it is known."""
    tensors: dict[str, TensorPrint] = {}
    classes: dict[str, str] = {}
    for path, module, names in tracked(list(adapted), "modules of the base recognised"):
        chosen = {f"{path}.{name}": _print_of(module, name) for name in names}
        if chosen:
            tensors |= chosen
            classes[path] = class_name(module)
    config = getattr(model, "config", None)
    kind = None if model is None else type(model).__name__
    return Fingerprint(tensors, classes, kind, getattr(config, "model_type", None))


def fingerprint_under(
    updates: Mapping[str, Update], bases: Mapping[str, nn.Module], model: nn.Module | None, heads: Sequence[str]
) -> Fingerprint:
    """Of all that the updates change or build on in the base but its heads, which start at random."""
    adapted = (
        (path, bases[path], update.built_on(bases[path])) for path, update in updates.items() if not inside(path, heads)
    )
    return fingerprint(adapted, None if model is None else unwrapped(model))


def _print_of(module: nn.Module, name: str) -> TensorPrint:
    """A quantised weight's print is that of the float weight it was made from, where that was remembered."""
    origin = getattr(module, "origin", None) if name == WHOLE else None
    return origin if isinstance(origin, TensorPrint) else _remembered(tensor_of(module, name))


@dataclass(frozen=True)
class _Known:
    """A print, and what was seen of its tensor when it was taken."""

    print: TensorPrint
    place: tuple[object, ...]
    sample: Tensor

    def is_of(self, tensor: Tensor) -> bool:
        """Whether it is still that of this tensor: nothing wrote to it as torch counts, nor by way of `.data`, as far
        as a sample shows."""
        return self.place == _place(tensor) and torch.equal(self.sample, _sample(tensor))


_KNOWN: MutableMapping[Tensor, _Known] = WeakTensorKeyDictionary()


def _remembered(tensor: Tensor) -> TensorPrint:
    """The print of a tensor, taken once for as long as it stays what it is."""
    if tensor.is_inference() or tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
        return TensorPrint.of(tensor)
    known = _KNOWN.get(tensor)
    if known is None or not known.is_of(tensor):
        known = _KNOWN[tensor] = _Known(TensorPrint.of(tensor), _place(tensor), _sample(tensor))
    return known.print


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach()[..., :1].reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)].clone().view(torch.uint8)


def _hash(values: Tensor) -> str:
    return hashlib.sha256(values.reshape(-1).view(torch.uint8).numpy().data).hexdigest()[:32]


def _sketch(values: Tensor) -> tuple[float, ...]:
    flat = values.reshape(-1)
    sums = (float(flat[start::STRIDE].sum(dtype=torch.float64)) for start in range(STRIDE))
    return (float(torch.linalg.vector_norm(flat, dtype=torch.float64)), *sums)
