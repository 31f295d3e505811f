"""Load an adapter into a model: the whole of it is put on the model, or it raises and the model is as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from loralab.core.adapter import Adapter, Plan, adapters_on, refuse_foreign_adapter
from loralab.core.attach import attach
from loralab.core.names import modules_by_path, unwrapped
from loralab.core.updates.factors import SharedMatrices
from loralab.core.updates.update import Update
from loralab.errors import AdapterFileError, AdapterStateError, SpecError
from loralab.files.names import CONFIG_NAME, SIDECAR_NAME
from loralab.files.tensor_checks import listed
from loralab.files.tensors import read_tensors
from loralab.formats.fingerprint import fingerprint_under
from loralab.formats.folder import config_content, model_files, name_for, tensors_path
from loralab.formats.loralib import read_loralib
from loralab.formats.own import from_own
from loralab.formats.peft.config import OWN_TYPE, PeftConfig, parse_config
from loralab.formats.peft.dialects import as_plain_lora
from loralab.formats.peft.reading import from_peft
from loralab.formats.peft.vera import vera_from_peft
from loralab.formats.peft.vera_config import is_vera, vera_spec
from loralab.formats.sidecar import Sidecar, read_sidecar
from loralab.methods.beside import random_beside
from loralab.methods.lora import LoRA
from loralab.methods.ties import tie_notes
from loralab.methods.wide_ranks import rank_notes


@dataclass(frozen=True)
class Loaded:
    """An adapter as it was read: a method whose plan is made already."""

    updates: Mapping[str, Update]
    spec: object
    notes: Sequence[str]
    heads: tuple[str, ...] = ()
    shared: SharedMatrices | None = None

    def plan(self, model: nn.Module) -> Plan:
        """The plan that was read."""
        return Plan(self.updates, tuple(self.notes), self.heads, self.shared)


def load(
    model: nn.Module,
    path: str | Path,
    name: str | None = None,
    *,
    alpha: float | None = None,
    rank_stabilized: bool = False,
    allow_other_base: bool = False,
    allow_random_head: bool = False,
) -> Adapter:
    """Read an adapter from disk, put it on the model, make it active and return it.

    `path` is a PEFT folder, or a loralib checkpoint, which does not record its `alpha`. Strict: AdapterFileError
    lists every tensor that is missing, extra, misshapen or not finite and every setting that is not supported;
    FingerprintError if the adapter was trained on another base (unless `allow_other_base`); AdapterStateError for a
    model whose head is random, where the adapter holds none (unless `allow_random_head`); the model is then as it
    was. `name` defaults to the folder's or file's name.
    """
    source = Path(path)
    refuse_foreign_adapter(model)
    adapters_on(model).refuse_merged("loading an adapter")
    if source.is_dir():
        _refuse_alpha(source, alpha, rank_stabilized)
        loaded = _read_folder(model, source, allow_other_base)
    else:
        loaded = Loaded(*read_loralib(model, read_tensors(source), alpha, rank_stabilized))
    if not allow_random_head:
        _refuse_headless(model, source, loaded)
    adapter = attach(model, loaded, name if name is not None else name_for(source))
    adapter.spec = loaded.spec
    return adapter


def _refuse_headless(model: nn.Module, source: Path, loaded: Loaded) -> None:
    random = random_beside(model, loaded.updates)
    if random:
        raise AdapterStateError(
            f"adapter {source} was to be loaded onto {type(unwrapped(model)).__name__}, whose {listed(random)} no "
            "checkpoint has filled, and the adapter does not hold them: the outputs would be random. Load the base "
            "with the head that the adapter was trained beside, or train the adapter again with its head; to train a "
            "new head on, pass allow_random_head=True"
        )


def _read_folder(model: nn.Module, folder: Path, allow_other_base: bool) -> Loaded:
    content, file, sidecar = config_content(folder), tensors_path(folder), read_sidecar(folder)
    if sidecar is not None:
        sidecar.check_belongs(file)
    tensors = read_tensors(file).tensors
    shared: SharedMatrices | None = None
    if content.get("peft_type") == OWN_TYPE:
        known = _sidecar_of_own(folder, sidecar)
        updates, shared = from_own(model, tensors, known.modules, known.shared)
        spec: object = known.spec()
        notes: list[str] = []
    elif is_vera(content):
        updates, shared, notes = vera_from_peft(model, content, tensors, sidecar, str(folder / CONFIG_NAME))
        spec = (sidecar.spec() if sidecar else None) or vera_spec(content, str(folder / CONFIG_NAME))
    else:
        plain = as_plain_lora(content, tensors)
        config = parse_config(plain.content, str(folder / CONFIG_NAME))
        updates, notes = from_peft(model, config, plain.tensors, sidecar)
        notes = [*plain.notes, *notes]
        spec = (sidecar.spec() if sidecar else None) or _spec_of(config)
    beside = [name for name in model_files(folder) if name != "config.json"]
    if beside:
        notes.append(f"the folder holds a whole model too ({', '.join(beside)}); the adapter alone was read")
    if sidecar is None:
        notes.append("the folder has no loralab.json: whether the base model is the right one could not be checked")
    elif not allow_other_base:
        by_path = modules_by_path(model)
        sidecar.fingerprint.check(fingerprint_under(updates, by_path, model, sidecar.heads))
    said = sidecar.notes if sidecar else ()
    heads = sidecar.heads if sidecar else ()
    notes += [*rank_notes(updates), *tie_notes(model, updates)]
    return Loaded(updates, spec, list(dict.fromkeys([*said, *notes])), heads, shared)


def _sidecar_of_own(folder: Path, sidecar: Sidecar | None) -> Sidecar:
    if sidecar is None:
        raise AdapterFileError(f"{folder} is an adapter that only loralab can read, but its {SIDECAR_NAME} is missing")
    return sidecar


def _refuse_alpha(folder: Path, alpha: float | None, rank_stabilized: bool) -> None:
    if alpha is not None or rank_stabilized:
        raise SpecError(
            f"alpha or rank_stabilized was given for {folder}, whose {CONFIG_NAME} says its own; leave them out"
        )


def _spec_of(config: PeftConfig) -> LoRA:
    """The specification that comes nearest to a PEFT configuration."""
    targets = [config.targets] if isinstance(config.targets, str) else list(config.targets or ())
    try:
        return LoRA(
            rank=config.rank,
            alpha=config.alpha,
            dropout=config.dropout,
            targets=[*targets, *config.target_parameters],
            exclude=[config.exclude] if isinstance(config.exclude, str) else list(config.exclude),
            layers=config.layers,
            rank_pattern=config.rank_pattern,
            alpha_pattern=config.alpha_pattern,
            bias=config.trained_bias,
            modules_to_save=config.modules_to_save,
            rank_stabilized=config.rank_stabilized,
            magnitude=config.magnitude,
            trainable_token_indices=config.tokens,
            invocation_tokens=config.invocation or None,
        )
    except SpecError as problem:
        raise AdapterFileError(f"{CONFIG_NAME} cannot be: {problem}") from problem
