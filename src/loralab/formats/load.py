"""Load an adapter into a model: the whole of it is put on the model, or it raises and the model is as it was."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from loralab.core.adapter import Adapter, adapters_on, refuse_foreign_adapter
from loralab.core.attach import put
from loralab.core.names import unwrapped
from loralab.core.plan import Plan
from loralab.errors import AdapterStateError, SpecError, listed
from loralab.files.names import CONFIG_NAME, model_files
from loralab.formats.checkpoints import checkpoint_folder
from loralab.formats.read import read_adapter
from loralab.formats.stored import StoredAdapter, name_for
from loralab.methods.beside import random_beside, tie_notes
from loralab.methods.wide_ranks import rank_notes


def load(
    model: nn.Module,
    path: str | Path,
    name: str | None = None,
    *,
    checkpoint: str | int | None = None,
    alpha: float | None = None,
    rank_stabilized: bool = False,
    allow_other_base: bool = False,
    allow_random_head: bool = False,
) -> Adapter:
    """Read an adapter from disk, put it on the model, make it active and return it.

    `path` is a PEFT folder, or a loralib checkpoint, which does not record its `alpha`; or a run's folder, of which
    `checkpoint` names one: "best", "last" or a step, also of a run that did not end. Strict: AdapterFileError
    lists every tensor that is missing, extra, misshapen or not finite and every setting that is not supported;
    FingerprintError if the adapter was trained on another base (unless `allow_other_base`); AdapterStateError for a
    model whose head is random, where the adapter holds none (unless `allow_random_head`); the model is then as it
    was. `name` defaults to the folder's or file's name.
    """
    source = path if checkpoint is None else checkpoint_folder(path, checkpoint)
    stored = read_adapter(source, alpha)
    if rank_stabilized and not stored.is_checkpoint:
        raise SpecError(
            f"rank_stabilized was given for {stored.source}, whose {CONFIG_NAME} says its own; leave it out"
        )
    return put_stored(
        model,
        replace(stored, rank_stabilized=rank_stabilized),
        name_for(Path(path)) if name is None and checkpoint is not None else name,
        allow_other_base=allow_other_base,
        allow_random_head=allow_random_head,
    )


def put_stored(
    model: nn.Module,
    stored: StoredAdapter,
    name: str | None = None,
    *,
    allow_other_base: bool = False,
    allow_random_head: bool = False,
) -> Adapter:
    """Put an adapter that was read already on the model, as `load` does."""
    refuse_foreign_adapter(model)
    adapters_on(model).refuse_merged("loading an adapter")
    plan = stored.readable().layout.place(stored, model)
    if stored.sidecar is not None and not allow_other_base:
        stored.sidecar.check_base(plan.updates, model)
    if not allow_random_head:
        _refuse_headless(model, stored.source, plan)
    notes = [*_notes(stored, plan), *rank_notes(plan.updates), *tie_notes(model, plan.updates)]
    heads = () if stored.sidecar is None else stored.sidecar.heads
    spec = (stored.sidecar and stored.sidecar.spec()) or stored.layout.spec(stored, plan)
    plan = replace(plan, notes=tuple(dict.fromkeys(notes)), heads=heads)
    return put(model, plan, spec, stored.name if name is None else name)


def _notes(stored: StoredAdapter, plan: Plan) -> Iterator[str]:
    if stored.sidecar is not None:
        yield from stored.sidecar.notes
    yield from plan.notes
    beside = [] if stored.is_checkpoint else [each for each in model_files(stored.source) if each != "config.json"]
    if beside:
        yield f"the folder holds a whole model too ({', '.join(beside)}); the adapter alone was read"
    if stored.is_checkpoint:
        yield "a loralib checkpoint records no base model: whether this one is right could not be checked"
    elif stored.sidecar is None:
        yield "the folder has no loralab.json: whether the base model is the right one could not be checked"


def _refuse_headless(model: nn.Module, source: Path, plan: Plan) -> None:
    random = random_beside(model, plan.updates)
    if random:
        raise AdapterStateError(
            f"adapter {source} was to be loaded onto {type(unwrapped(model)).__name__}, whose {listed(random)} no "
            "checkpoint has filled, and the adapter does not hold them: the outputs would be random. Load the base "
            "with the head that the adapter was trained beside, or train the adapter again with its head; to train a "
            "new head on, pass allow_random_head=True"
        )
