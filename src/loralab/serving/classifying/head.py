"""A classifier's adapter from disk: its low-rank pairs, and its head, which has as many outputs as it has classes."""

import copy
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loralab.core.names import inside
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError, AdapterStateError, listed
from loralab.formats.read import read_adapter
from loralab.formats.run import read_run, recorded_labels
from loralab.formats.stored import StoredAdapter
from loralab.methods.beside import random_beside
from loralab.models.load import model_from_config
from loralab.models.outputs import output_names
from loralab.serving.engine.bank import Pairs
from loralab.serving.engine.low_rank import pair_of, why_not_beside_others

WRAPPED = re.compile(r"\.(modules_to_save|original_module)(\.default)?(?=\.)")
CLASSIFIER = "sequence-classification"


@dataclass(frozen=True)
class Head:
    """What answers for an adapter behind the body."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """By module path, the tensors of a module that was trained in full."""
    labels: tuple[str, ...]
    """Its classes in the order of its outputs."""
    is_value: bool = False
    """Whether it has one output that is a value, not classes."""

    @property
    def memory_bytes(self) -> int:
        """What its tensors take."""
        return sum(each.nbytes for tensors in self.tensors.values() for each in tensors.values())


def outputs_of(model: PreTrainedModel) -> int:
    """Of a classifier's own head."""
    return int(model.config.num_labels or 0)


class Bodies:
    """One classifier's body under heads of any number of outputs: what an adapter is held against when it is read."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        few, more = (self._parameters(count) for count in (2, 3))
        self._outputs = {name: _differing(few[name], more[name]) for name in few if few[name] != more[name]}

    def under(self, outputs: int) -> PreTrainedModel:
        """The body's own tensors, under a head of so many outputs that holds nothing."""
        if outputs == outputs_of(self._model):
            return self._model
        made, own = self._blank(outputs), dict(chain(self._model.named_parameters(), self._model.named_buffers()))
        for path, module in made.named_modules():
            for name, tensor in chain(module._parameters.items(), module._buffers.items()):
                if tensor is not None:
                    _give(module, name, tensor, own.get(f"{path}.{name}" if path else name))
        return made

    def outputs_of(self, stored: StoredAdapter) -> int:
        """How many outputs the head that an adapter holds has; the model's own where it holds none."""
        for key, tensor in stored.named.items():
            plain = WRAPPED.sub("", key)
            for name, dimension in self._outputs.items():
                if plain == name or plain.endswith(f".{name}"):
                    return int(tensor.shape[dimension])
        return outputs_of(self._model)

    def _blank(self, outputs: int) -> PreTrainedModel:
        config = copy.deepcopy(self._model.config)
        config.num_labels = outputs
        with torch.device("meta"):
            return model_from_config(str(config.name_or_path), config, CLASSIFIER)

    def _parameters(self, outputs: int) -> dict[str, torch.Size]:
        return {name: each.shape for name, each in self._blank(outputs).named_parameters()}


def _differing(one: Sequence[int], other: Sequence[int]) -> int:
    return next(dimension for dimension, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def _give(module: nn.Module, name: str, like: Tensor, own: Tensor | None) -> None:
    """The body's own tensor, or an empty one where the head's is of another shape."""
    if own is not None and own.shape == like.shape:
        given = own
    else:
        empty = torch.empty(like.shape, dtype=like.dtype)
        given = nn.Parameter(empty, requires_grad=False) if isinstance(like, nn.Parameter) else empty
    owned = module._parameters if name in module._parameters else module._buffers
    owned[name] = given  # type: ignore[assignment]


def read_classifier(path: Path, bodies: Bodies, with_rows: Container[str]) -> tuple[Pairs, Head]:
    """An adapter of a classifier; `with_rows` are the paths of the modules that have an input for every row of a batch.

    Raises what `load` raises for files that are damaged or of another base; AdapterStateError for what rows of a batch
    cannot have apart; AdapterFileError for one that does nothing.
    """
    stored = read_adapter(path).demand()
    outputs = bodies.outputs_of(stored)
    model = bodies.under(outputs)
    plan = stored.layout.place(stored, model)
    if stored.sidecar is not None:
        stored.sidecar.check_base(plan.updates, model)
    _refuse_random(path, random_beside(model, plan.updates))
    heads = {name: each for name, each in plan.updates.items() if each.only_replaces}
    others = {name: each for name, each in plan.updates.items() if name not in heads}
    _refuse_others(path, heads, others, with_rows)
    with torch.no_grad():
        pairs = {name: pair_of(each) for name, each in others.items()}
        tensors = {
            name: {at: each.detach().to(model.dtype).clone() for at, each in update.replacements().items()}
            for name, update in heads.items()
        }
    if not heads and not any(bool(A.any()) and bool(B.any()) for A, B in pairs.values()):
        raise AdapterFileError(f"adapter {path.name} does nothing: every update in it is zero; train it")
    return pairs, Head(tensors, _labels(path, model, outputs), _is_value(path, outputs))


def _labels(path: Path, model: PreTrainedModel, outputs: int) -> tuple[str, ...]:
    """As the adapter records them; else as the base's configuration has them; else by number."""
    named = recorded_labels(path) or output_names(model.config) or ()
    return tuple(named) if len(named) == outputs else tuple(f"LABEL_{number}" for number in range(outputs))


def _is_value(path: Path, outputs: int) -> bool:
    return outputs == 1 and read_run(path).kind in ("", "regression")


def _refuse_random(path: Path, random: Sequence[str]) -> None:
    if random:
        raise AdapterStateError(
            f"adapter {path.name} holds no head, and the base has none that was trained ({listed(random, 3)}): its "
            "answers would be random; train it with its head, or, if it writes text, serve it beside a model that does"
        )


def _refuse_others(
    path: Path, heads: Mapping[str, Update], others: Mapping[str, Update], with_rows: Container[str]
) -> None:
    refused = {name: why for name, each in others.items() if (why := why_not_beside_others(each, name in with_rows))}
    refused |= {name: "within a module that is trained in full" for name in others if inside(name, list(heads))}
    refused |= {
        name: "a module trained in full that is not given every row of a batch"
        for name in heads
        if name not in with_rows
    }
    if refused:
        examples = listed([f"{name}: {why}" for name, why in refused.items()], 3)
        raise AdapterStateError(
            f"adapter {path.name} cannot be served beside others: it is more than low-rank updates and a head "
            f"({examples}); merge it into its base and serve that"
        )
