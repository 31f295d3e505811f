"""Where a run's adapter starts: fresh, from the run's own data (EVA), or from an adapter that was trained before.

The paper starts MRPC, RTE and STS-B from its MNLI adapter (§5.2): the base stays the pretrained one, the low-rank
factors are taken over, and a head of another size begins afresh. The earlier adapter is read strictly, onto a second
copy of the base with a head of its own size, so twice the base's memory is needed for a moment.

EVA looks at the batches of the first steps, in the run's own order. A resumed run takes the ranks from its checkpoint,
which holds the values of A as well: it needs no data for that, and cannot come to other ranks on another machine.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.core.plan import Method
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError, NotFoundError, SpecError
from loralab.formats.load import load
from loralab.formats.quantized import trained_on
from loralab.formats.read import read_adapter
from loralab.formats.run import read_run, recorded_labels
from loralab.formats.tokenizer import with_own_tokenizer
from loralab.methods.eva.method import attach_eva, places_of, with_ranks
from loralab.methods.lora import LoRA
from loralab.methods.registry import specification
from loralab.models.load import LoadedModel, load_model
from loralab.training.checkpoint import Checkpoint, newest_checkpoint
from loralab.training.config import TrainConfig
from loralab.training.data import TrainingData
from loralab.training.draft import Draft
from loralab.training.folder import RunFolder


def attach_adapter(draft: Draft) -> Iterator[str]:
    """A fresh adapter, with init eva started from the data that were read for it."""
    config, model = draft.config, draft.loaded.model
    method = specification(config)
    eva = config.init == "eva"
    draft.adapter = (
        attach_from_data(config, method, model, draft.data, draft.name) if eva else attach(model, method, draft.name)
    )
    if config.quantize is not None:
        draft.adapter.notes.append(trained_on(config.quantize))
    yield from draft.adapter.notes


def take_over_values(draft: Draft) -> Iterator[str]:
    """Those of the adapter to start from, if there is one."""
    config = draft.config
    if config.init_adapter is not None:
        yield start_from(config.init_adapter, draft.adapter, config, draft.loaded, draft.task.model_kind)


def start_from(path: str, adapter: Adapter, config: TrainConfig, loaded: LoadedModel, kind: str) -> str:
    """Copy the values of the adapter at `path` into `adapter`, which is on `loaded`; returns a sentence for the log.

    Raises NotFoundError for a path that is not there, AdapterFileError for an adapter that adapts other modules or at
    other ranks, SpecError for one of another scale, FingerprintError for one of another base.
    """
    earlier = _as_trained(Path(path), adapter, config, loaded, kind)
    own, theirs = _low_rank(adapter), _low_rank(earlier)
    _check_same_modules(path, own, theirs)
    _check_all_is_taken(path, adapter, earlier)
    _check_same_tokens(path, adapter, earlier)
    _check_same_invocation(path, adapter, earlier)
    values = earlier.state_dict()
    afresh = [where for where in _heads(adapter) if not _fits(where, adapter, values)]
    with torch.no_grad():
        for name, tensor in adapter.named_tensors():
            if not any(name.startswith(f"{where}.") for where in afresh):
                tensor.copy_(values[name])
    heads = f"; of another size there, and fresh here: {', '.join(afresh)}" if afresh else ""
    return f"started from the adapter {path}{heads}"


def _as_trained(path: Path, adapter: Adapter, config: TrainConfig, loaded: LoadedModel, kind: str) -> Adapter:
    """The earlier adapter on its own copy of the base."""
    if not path.exists():
        raise NotFoundError(f"init_adapter {path}: there is no such adapter; give its folder, or a loralib checkpoint")
    labels, regression = (None, False) if not kind.endswith("-classification") else _outputs(path, adapter, loaded)
    dtype = str(loaded.dtype).removeprefix("torch.")
    base = load_model(config.model, kind=kind, labels=labels, regression=regression, dtype=dtype, device=config.device)
    alpha = config.alpha if path.is_file() else None
    base = with_own_tokenizer(base, path)
    return load(base.model, path, "earlier", alpha=alpha, allow_random_head=True)  # this run has a head of its own


def _outputs(path: Path, adapter: Adapter, loaded: LoadedModel) -> tuple[list[str] | None, bool]:
    """The classes that the earlier adapter was trained on, and whether it predicted a value instead."""
    if read_run(path).kind == "regression":
        return None, True
    if labels := recorded_labels(path):
        return list(labels), False
    rows = _rows_of_head(read_adapter(path).tensors, adapter)
    return [f"class {number}" for number in range(rows or int(loaded.model.config.num_labels or 1))], False


def _rows_of_head(tensors: Mapping[str, Tensor], adapter: Adapter) -> int | None:
    """How many outputs the head in a file has: the rows of the tensor that is named as our head's last weight."""
    weights = [name for name, _ in adapter.named_tensors() if name.split(".")[0] in _heads(adapter)]
    last = [name for name in weights if name.endswith("weight")][-1:]
    rows = [tensor.shape[0] for name, tensor in tensors.items() if last and name.endswith(last[0])]
    return int(rows[0]) if len(rows) == 1 else None


def _heads(adapter: Adapter) -> list[str]:
    """Paths of the modules that are trained in full."""
    return [path for path, update in adapter.updates.items() if not len(update.parts)]


def _fits(where: str, adapter: Adapter, values: Mapping[str, Tensor]) -> bool:
    own = {name: tensor for name, tensor in adapter.named_tensors() if name.startswith(f"{where}.")}
    return all(name in values and values[name].shape == tensor.shape for name, tensor in own.items())


def _low_rank(adapter: Adapter) -> dict[str, tuple[Any, ...]]:
    """(rank, scale) of every low-rank part, by its name."""
    return {
        f"{path} {part}".strip(): _size(update, part)
        for path, update in adapter.updates.items()
        for part in update.parts
    }


def _size(update: Update, part: str) -> tuple[int, float]:
    recipe = update.delta_of(part).recipe
    return recipe.rank, recipe.scale


def _check_all_is_taken(path: str, adapter: Adapter, earlier: Adapter) -> None:
    """What the earlier adapter trained in full, this run trains too."""
    lost = [where for where in _heads(earlier) if where not in adapter.updates]
    if lost:
        raise AdapterFileError(
            f"init_adapter {path} holds {', '.join(lost)} in full, which this run does not train: it would not start "
            "where that adapter ended; give the same bias, modules_to_save and trainable_token_indices"
        )


def _check_same_tokens(path: str, adapter: Adapter, earlier: Adapter) -> None:
    """Rows of single tokens are taken over for the same tokens only."""
    for where, update in adapter.updates.items():
        theirs = earlier.updates.get(where)
        if isinstance(update, TokenUpdate) and isinstance(theirs, TokenUpdate) and update.indices != theirs.indices:
            raise SpecError(
                f"init_adapter {path} trained the rows {list(theirs.indices)} of {where}, this run "
                f"{list(update.indices)}; give the same trainable_token_indices"
            )


def _check_same_invocation(path: str, adapter: Adapter, earlier: Adapter) -> None:
    """Both act from the same place on."""
    if adapter.invocation != earlier.invocation:
        own, theirs = (list(each.invocation) or "the first token" for each in (adapter, earlier))
        raise SpecError(
            f"init_adapter {path} acts from {theirs} on, this run's from {own}: it would not start where that adapter "
            "ended; give the same invocation_tokens"
        )


def _check_same_modules(path: str, own: Mapping[str, tuple[Any, ...]], theirs: Mapping[str, tuple[Any, ...]]) -> None:
    """Every low-rank part is in both, in the same rank and at the same scale."""
    missing, extra = sorted(own.keys() - theirs.keys()), sorted(theirs.keys() - own.keys())
    if missing or extra:
        example = f"it does not adapt {missing[0]}" if missing else f"it adapts {extra[0]} too"
        raise AdapterFileError(
            f"init_adapter {path} adapts {len(theirs)} weights, this run {len(own)}: {example}; give the same targets"
        )
    other_rank = [name for name in own if own[name][0] != theirs[name][0]]
    if other_rank:
        name = other_rank[0]
        raise AdapterFileError(
            f"init_adapter {path} has rank {theirs[name][0]} at {name}, this run {own[name][0]}; give the same rank"
        )
    other_scale = [name for name in own if own[name][1] != theirs[name][1]]
    if other_scale:
        name = other_scale[0]
        raise SpecError(
            f"init_adapter {path} scales its update of {name} by {theirs[name][1]:g}, this run by {own[name][1]:g}: "
            "the model would not start where that adapter ended; give the same alpha"
        )


def attach_from_data(
    config: TrainConfig, method: Method, model: nn.Module, data: TrainingData, name: str = "default"
) -> Adapter:
    """Attach `method`, a LoRA, as EVA starts it from at most `config.eva_batches` batches of one pass over `data`.

    Raises SpecError for another method, and whatever `attach_eva` raises.
    """
    if not isinstance(method, LoRA):
        raise SpecError(
            f"init eva starts the A of a LoRA, and method {config.method} is none: give a method that is "
            "one, or leave init out"
        )
    checkpoint = newest_checkpoint(RunFolder.of(config).checkpoints) if config.resume else None
    if checkpoint:
        return _as_before(method, model, checkpoint, name)
    batches = islice(_batches(data), config.eva_batches)
    return attach_eva(model, method, batches, name=name, rho=config.eva_rho, tau=config.eva_tau)


def _batches(data: TrainingData) -> Iterator[Mapping[str, Tensor]]:
    """What the model is called with in the run's first epoch, batch by batch, with the labels."""
    for batch in data.for_one_process():
        yield dict(batch.inputs) if batch.labels is None else {**batch.inputs, "labels": batch.labels}


def _as_before(spec: LoRA, model: nn.Module, checkpoint: Checkpoint, name: str) -> Adapter:
    """The adapter in the ranks of the checkpoint, whose values will be put into it."""
    plain = replace(spec, init="kaiming")
    places = places_of(plain, model, rho=1.0)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    ranks = {place.name: int(shapes.get(f"adapter/{place.tensor}", (0,))[0]) for place in places}
    adapter = attach(model, with_ranks(plain, model, places, ranks), name)
    adapter.notes.append(f"EVA: ranks and values as in the checkpoint of step {checkpoint.step}")
    return adapter
