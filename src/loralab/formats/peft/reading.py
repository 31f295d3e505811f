"""From PEFT's configuration and tensors to updates for a model. The inverse is `writing.py`.

Strict both ways: every tensor of the file lands in an update, and every factor of every update is filled from the
file, or an AdapterFileError lists all that is wrong. Nothing of the model is changed here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from loralab.core.names import elsewhere, inside, modules_by_path, unwrapped
from loralab.core.updates.build import kind_of
from loralab.core.updates.low_rank import BiasedLinear
from loralab.core.updates.tokens import settings_of_rows
from loralab.core.updates.update import WHOLE, Kind, Update
from loralab.errors import AdapterFileError, some
from loralab.files.tensors import of_shape, refuse_unfit
from loralab.formats.peft.agreement import packed_recipe, unheld
from loralab.formats.peft.beside_base import expected_biases, fill_biases, fold_biases, needs_bias, refuse_tied
from loralab.formats.peft.config import INVOCATION_TOKENS, MERGE, PeftConfig
from loralab.formats.peft.keys import (
    BIASES,
    A,
    PeftTarget,
    Plot,
    find_peft_targets,
    key_prefix,
    named_targets,
    parameter_prefix,
    plain_names,
    refuse_two_stories,
    saved_modules,
    some_modules,
    tensor_key,
    unmatched_names,
    wrap_depths,
)
from loralab.formats.peft.layout import OUT_B, OUTPUT_TWICE, PeftEntry, entry_shapes, is_blocked, surplus, unpack
from loralab.formats.peft.tokens import COPY, expected_rows, fill_rows, refuse_beyond, refuse_taken, token_plot
from loralab.formats.peft.writing import reasons_against_peft
from loralab.formats.record import ModuleRecord, PartRecord, recorded_rows
from loralab.formats.sidecar import Sidecar
from loralab.nn.tensors import has_tensor, tensor_of

_ATTENTION = ("q", "k", "v", "out")


@dataclass
class FileReading:
    """One adapter being read: what is expected, what was found, and what the user should be told."""

    model: nn.Module
    config: PeftConfig
    tensors: dict[str, Tensor]
    sidecar: Sidecar | None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def by_path(self) -> dict[str, nn.Module]:
        """The model's modules."""
        return modules_by_path(self.model)

    @staticmethod
    def of(
        model: nn.Module, config: PeftConfig, tensors: Mapping[str, Tensor], sidecar: Sidecar | None
    ) -> "FileReading":
        """The tensors of a file under their plain names."""
        plain, wrapped = plain_names(tensors, unwrapped(model)._modules)
        what = "its keys had the names of a compile, DDP or FSDP wrapper in them, which were left out"
        return FileReading(model, config, plain, sidecar, [what] if wrapped else [])


def from_peft(
    model: nn.Module, config: PeftConfig, tensors: Mapping[str, Tensor], sidecar: Sidecar | None
) -> tuple[dict[str, Update], list[str]]:
    """The updates by path, filled, and notes; AdapterFileError listing all problems."""
    reading = FileReading.of(model, config, tensors, sidecar)
    plot = plot_of(reading)
    if config.ties_weights:
        refuse_tied(model, plot)
    if config.bias_of_B:
        reading.notes += fold_biases(model, config, plot, reading.tensors)
    leave_out_foreign(reading, plot)
    rename_old_biases(reading, plot)
    refuse_unfit(reading.tensors, expected_tensors(reading, plot))
    return _filled(reading, plot), reading.notes


# -- what is expected -------------------------------------------------------------------------------------------


def plot_of(reading: FileReading) -> Plot:
    """Where every tensor goes; AdapterFileError where configuration and tensors do not say the same."""
    if reading.sidecar is not None:
        held = _plot_of_sidecar(reading, reading.sidecar.modules)
        for what, advice in unheld(reading.config, reading.sidecar.modules):
            raise AdapterFileError(f"{what}; {advice}")
        refuse_two_stories(reading.config, held, _plot_of_names(reading, named_targets(reading.model, reading.config)))
        return held
    try:
        targets = find_peft_targets(reading.model, reading.config)
    except AdapterFileError as problem:
        raise AdapterFileError(f"{problem}; the tensors are of {some_modules(reading.tensors)}") from problem
    plot = _plot_of_names(reading, targets)
    _refuse_elsewhere(reading.model, [*plot.depths, *plot.heads])
    return plot


def _refuse_elsewhere(model: nn.Module, paths: Sequence[str]) -> None:
    """AdapterFileError where a module hangs in several places: PEFT adapts it at the first alone, we everywhere."""
    shared = elsewhere(model, paths)
    if shared:
        pairs = "; ".join(f"{path} (the same module as {', '.join(others)})" for path, others in shared.items())
        raise AdapterFileError(
            f"PEFT wrote this adapter, but what it computes there has no equal here: {pairs}. PEFT adapts what "
            "hangs in several places at the first of them alone. Give the model copies of the module, or train with "
            "loralab, which adapts it everywhere"
        )


def _plot_of_names(reading: FileReading, targets: list[PeftTarget]) -> Plot:
    """Of what the configuration names, and embeddings that PEFT wrote in full."""
    depths = wrap_depths(targets)
    heads = [path for path in saved_modules(reading.model, reading.config) if _is_saved(reading, path)]
    if reading.sidecar is None:
        heads += _saved_embeddings(reading, depths)
    replaced = {path: list(reading.by_path[path].state_dict()) for path in dict.fromkeys(heads)}
    for path, name in _biases(reading, depths, list(replaced)):
        replaced.setdefault(path, []).append(name)
    tokens = token_plot(reading.model, reading.config.tokens)
    refuse_taken(tokens, depths, {path: names for path, names in replaced.items() if not set(names) <= BIASES})
    return Plot(targets, replaced, depths, tokens)


def _is_saved(reading: FileReading, path: str) -> bool:
    """What modules_to_save names must be in the file, but for modules without tensors; a head that only the task
    implies may be the base's own."""
    named = path.endswith(reading.config.modules_to_save) and bool(reading.by_path[path].state_dict())
    return named or any(key.startswith(f"{path}.") for key in reading.tensors)


def _plot_of_sidecar(reading: FileReading, records: Mapping[str, ModuleRecord]) -> Plot:
    by_path = reading.by_path
    lost = [path for path in records if path not in by_path]
    if lost:
        raise AdapterFileError(f"the adapter does not fit this model, which has no {', '.join(lost)}")
    targets = []
    for path, record in records.items():
        module, parts = by_path[path], list(record.parts)
        if record.kind == "parameters":
            targets += [PeftTarget(path, module, name, parameter_prefix(module, parts, name)) for name in parts]
        elif parts:
            as_parameter = f"{path}.{WHOLE}" in reading.config.target_parameters
            targets.append(PeftTarget(path, module, WHOLE if as_parameter else None))
    replaced = {path: _stored(record, by_path[path]) for path, record in records.items() if record.replaced}
    tokens = {path: recorded_rows(each.settings) for path, each in records.items() if each.kind == "token rows"}
    refuse_beyond({path: indices for path, (indices, _) in tokens.items()}, by_path)
    return Plot(targets, replaced, wrap_depths(targets), tokens)


def _stored(record: ModuleRecord, module: nn.Module) -> list[str]:
    stored = module.state_dict()
    return [name for name in record.replaced if name in stored or (record.parts and has_tensor(module, name))]


def _biases(reading: FileReading, depths: Mapping[str, int], heads: list[str]) -> Iterable[tuple[str, str]]:
    """(module path, tensor name) of the biases that PEFT trains; an attention's output bias is the attention's own."""
    which = reading.config.trained_bias
    for path, module in reading.by_path.items():
        if inside(path, heads):
            continue
        parent, _, leaf = path.rpartition(".")
        of_attention = leaf == "out_proj" and isinstance(reading.by_path.get(parent), nn.MultiheadAttention)
        owner, name = (parent, "out_proj.bias") if of_attention else (path, "bias")
        wanted = which == "all" or (which == "lora_only" and owner in depths)
        if wanted and module._parameters.get("bias") is not None:
            yield owner, name


def expected_tensors(reading: FileReading, plot: Plot) -> dict[str, Tensor]:
    """Key → the like of every tensor that the file must hold."""
    expected: dict[str, Tensor] = {}
    for target in plot.targets:
        rank = reading.config.recipe(target.name).rank
        groups = getattr(target.module, "groups", 1)
        if isinstance(groups, int) and rank % groups:
            raise AdapterFileError(f"rank {rank} of {target.path} does not divide by its {groups} groups")
        shapes = entry_shapes(target.module, target.parameter, rank, reading.config.magnitude)
        expected |= {plot.stem(target) + key: of_shape(shape) for key, shape in shapes.items()}
    for path, names in plot.replaced.items():
        for name in names:
            expected[tensor_key(path, name, plot.depths)] = tensor_of(reading.by_path[path], name)
    if reading.config.bias_of_B:
        expected |= expected_biases(plot)
    return expected | expected_rows(plot.tokens, reading.by_path, plot.row_keys(reading.tensors))


# -- tensors that PEFT writes though they are not the adapter's ----------------------------------------------------


def leave_out_foreign(reading: FileReading, plot: Plot) -> None:
    """Drop copies of the base's own tensors, and doubles of a saved module's, that PEFT puts beside the adapter's.

    loralab writes none of them.
    """
    if reading.sidecar is not None:
        return
    reading.notes += unmatched_names(reading.model, reading.config)
    heads = [path for path in plot.replaced if path not in plot.depths]
    doubles = [
        key
        for key in reading.tensors
        for head in heads
        if key.startswith((f"{head}.original_module.", f"{head}.modules_to_save."))
    ]
    for key in doubles:
        del reading.tensors[key]
    for path, (indices, _) in plot.tokens.items():
        key = f"{key_prefix(path, plot.depths)}.{COPY}"
        if key in reading.tensors:
            _refuse_other_base(path, reading.tensors.pop(key), reading.by_path[path], indices)
    own = {(path, name) for path, names in plot.replaced.items() for name in names}
    for path, base in _embeddings(reading.model).items():
        for name in base.state_dict() if path in plot.depths else ():
            key = tensor_key(path, name, plot.depths)
            if key in reading.tensors and (path, name) not in own:
                _refuse_other_base(path, reading.tensors.pop(key), base, name=name)


def rename_old_biases(reading: FileReading, plot: Plot) -> None:
    """PEFT before 0.7 did not wrap what it adapts: the bias of an adapted layer has the layer's own name there."""
    for path, names in plot.replaced.items():
        old, new = f"{key_prefix(path, plot.depths)}.bias", tensor_key(path, "bias", plot.depths)
        if path in plot.depths and "bias" in names and old in reading.tensors and new not in reading.tensors:
            reading.tensors[new] = reading.tensors.pop(old)


def _saved_embeddings(reading: FileReading, depths: Mapping[str, int]) -> list[str]:
    """Embeddings that PEFT saved in full because they were resized; equal copies of the base's are left out."""
    saved = []
    for path, base in _embeddings(reading.model).items():
        values = reading.tensors.get(f"{path}.weight")
        if path in depths or values is None or path in saved_modules(reading.model, reading.config):
            continue
        if _is_copy(values, base):
            for name in base.state_dict():
                reading.tensors.pop(f"{path}.{name}", None)
        else:
            reading.notes.append(f"the file holds {path} in full: it replaces the base model's own")
            saved.append(path)
    return saved


def _embeddings(model: nn.Module) -> dict[str, nn.Module]:
    """The input and output embeddings that the model itself names, by path."""
    inner = unwrapped(model)
    embeddings: dict[str, nn.Module] = {}
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            module = getattr(inner, getter)()
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(module, nn.Module):
            embeddings |= {path: each for path, each in modules_by_path(model).items() if each is unwrapped(module)}
    return embeddings


def _refuse_other_base(
    path: str, values: Tensor, base: nn.Module, apart_from: Sequence[int] = (), name: str = WHOLE
) -> None:
    if not _is_copy(values, base, apart_from, name):
        raise AdapterFileError(
            f"the file holds a copy of the base's {path}.{name}, {list(values.shape)}, that is not this model's own: "
            "it was resized or trained. Resize or load the model so that they are the same"
        )


def _is_copy(values: Tensor, base: nn.Module, apart_from: Sequence[int] = (), name: str = WHOLE) -> bool:
    """Whether these are the base's values, rounded or not, but for rows that are replaced anyway."""
    weight = tensor_of(base, name).detach().cpu()
    if values.shape != weight.shape:
        return False
    compared = torch.ones(len(weight), dtype=torch.bool)
    compared[list(apart_from)] = False
    copy, kept = values[compared], weight[compared]
    return torch.equal(copy.to(weight.dtype), kept) or torch.equal(copy, kept.to(copy.dtype))


# -- filling ----------------------------------------------------------------------------------------------------


def _filled(reading: FileReading, plot: Plot) -> dict[str, Update]:
    touched = {*plot.depths, *plot.replaced, *plot.tokens}
    order = reading.by_path if reading.sidecar is None else reading.sidecar.modules
    records = {path: _record(reading, plot, path) for path in order if path in touched}
    _invocations_must_agree(reading.config, records)
    updates = {path: record.build(path, reading.by_path[path]) for path, record in records.items()}
    if reading.sidecar is None:
        _refuse_other_function(updates, reading.by_path)
    _scales_must_agree(reading, plot)
    _unpack_all(reading, plot, updates)
    restore_in_full(reading, plot, updates)
    if reading.config.bias_of_B:
        fill_biases(updates, reading.config, plot, reading.tensors)
    fill_rows(updates, {path: reading.tensors[key] for path, key in plot.row_keys(reading.tensors).items()})
    return updates


def _unpack_all(reading: FileReading, plot: Plot, updates: Mapping[str, Update]) -> None:
    """Fill the factors. Raises AdapterFileError where that would leave values out which PEFT computes with."""
    left_out = []
    for target in plot.targets:
        update, entry = updates[target.path], _entry(reading, plot, target)
        unpack(update, target.module, entry)
        left_out += [plot.stem(target) + key for key in surplus(update, target.module, entry)]
    if left_out:
        raise AdapterFileError(
            f"{some(left_out, 4)} hold values where loralab.json says that nothing is adapted: another program trained "
            "or edited the file. Get it again; or remove loralab.json, to follow the tensors alone"
        )


def _refuse_other_function(updates: Mapping[str, Update], by_path: Mapping[str, nn.Module]) -> None:
    """What PEFT computes otherwise than the update of these modules is defined cannot be read as that update."""
    others = {path: update for path, update in updates.items() if not isinstance(update, BiasedLinear)}
    reasons = reasons_against_peft(others, by_path)
    if reasons:
        raise AdapterFileError(
            f"PEFT wrote this adapter, but what it computes there has no equal here: {'; '.join(reasons)}. "
            f"Leave these modules out, or train them with loralab; or {MERGE}"
        )


def _entry(reading: FileReading, plot: Plot, target: PeftTarget) -> PeftEntry:
    """What the file holds of a target, the update of an attention's output as a PEFT has it that adds that twice."""
    recipe, stem = reading.config.recipe(target.name), plot.stem(target)
    keys = entry_shapes(target.module, target.parameter, recipe.rank, reading.config.magnitude)
    tensors = {key: reading.tensors[stem + key] for key in keys}
    if OUT_B in tensors and reading.sidecar is None and not reading.config.adds_output_twice:
        tensors[OUT_B] = tensors[OUT_B] / OUTPUT_TWICE
    return PeftEntry(target.parameter, recipe, tensors)


def restore_in_full(reading: FileReading, plot: Plot, updates: Mapping[str, Update]) -> None:
    """Give the updates the tensors that the file holds in full, and buffers of their modules that no file holds."""
    for path, names in plot.replaced.items():
        update, module = updates[path], reading.by_path[path]
        for name in names:
            update.restore(name, reading.tensors[tensor_key(path, name, plot.depths)], module)
        if path not in plot.depths and not set(names) <= BIASES:
            for name, buffer in module.named_buffers():
                if name not in names:
                    update.replace(name, buffer, trains=False)


def _record(reading: FileReading, plot: Plot, path: str) -> ModuleRecord:
    """The structure of the update at `path`: as loralab recorded it, or as PEFT trains it."""
    if reading.sidecar is not None:
        return reading.sidecar.modules[path]
    targets = [target for target in plot.targets if target.path == path]
    if path in plot.tokens:
        return ModuleRecord("token rows", settings=settings_of_rows(*plot.tokens[path]))
    if not targets:
        return ModuleRecord("replacement")
    if reading.config.invocation:
        return _invoked_record(reading, targets[0])
    if targets[0].parameter is not None:
        parts = {str(each.parameter): PartRecord(reading.config.recipe(each.name)) for each in targets}
        return ModuleRecord("parameters", parts)
    module, recipe = targets[0].module, reading.config.recipe(path)
    kind = kind_of(module)
    if kind == "attention" and not reading.config.magnitude:
        reading.notes.append(
            f"{path}: PEFT trains one A for q, k and v; here each has its own copy of it, and they may part in training"
        )
        return ModuleRecord(kind, {part: PartRecord(recipe) for part in _ATTENTION})
    if reading.config.magnitude:
        return _magnitude_record(reading, path, module, kind)
    if kind == "conv":
        return _conv_record(reading, plot, targets[0])
    biased = kind == "linear" and reading.config.bias_of_B and needs_bias(module)
    return ModuleRecord(kind, {WHOLE: PartRecord(recipe)}, biased=biased)


def _invoked_record(reading: FileReading, target: PeftTarget) -> ModuleRecord:
    """aLoRA, which is of dense layers."""
    if target.parameter is not None or kind_of(target.module) != "linear":
        raise AdapterFileError(
            f"{target.name} is not a dense layer, and the adapter's config says {INVOCATION_TOKENS}, which is for "
            "those only, in PEFT too; leave it out of target_modules"
        )
    parts = {WHOLE: PartRecord(reading.config.recipe(target.path))}
    return ModuleRecord("linear", parts, invocation=reading.config.invocation)


def _invocations_must_agree(config: PeftConfig, records: Mapping[str, ModuleRecord]) -> None:
    other = [path for path, record in records.items() if record.parts and record.invocation != config.invocation]
    if other:
        raise AdapterFileError(
            f"the config has the adapter act from the tokens {list(config.invocation)} on, but loralab.json, at "
            f"{other[0]}, from {list(records[other[0]].invocation)}; one of the files was changed: get both again"
        )


def _magnitude_record(reading: FileReading, path: str, module: nn.Module, kind: Kind) -> ModuleRecord:
    """DoRA, of the modules that have it here as in PEFT."""
    groups = getattr(module, "groups", 1)
    if kind not in ("linear", "embedding", "conv") or (isinstance(groups, int) and groups > 1):
        what = f"{type(module).__name__} in {groups} groups" if kind == "conv" else type(module).__name__
        raise AdapterFileError(
            f"{path} is a {what}, and the adapter's config says use_dora, which is not for those here: {MERGE}"
        )
    return ModuleRecord(kind, {WHOLE: PartRecord(reading.config.recipe(path))}, magnitude=True)


def _conv_record(reading: FileReading, plot: Plot, target: PeftTarget) -> ModuleRecord:
    """A grouped convolution: one rank-R pair per group if A is made of blocks, PEFT's dense A otherwise."""
    recipe, groups = reading.config.recipe(target.path), int(getattr(target.module, "groups", 1))
    dense = groups > 1 and not is_blocked(reading.tensors[plot.stem(target) + A], groups)
    return ModuleRecord("conv", {WHOLE: PartRecord(recipe.at_rank(recipe.rank // groups))}, dense=dense)


def _scales_must_agree(reading: FileReading, plot: Plot) -> None:
    """What loralab.json and adapter_config.json say about ranks and alphas must be the same."""
    if reading.sidecar is None:
        return
    problems = []
    for target in plot.targets:
        record, said = reading.sidecar.modules[target.path], reading.config.recipe(target.name)
        own = packed_recipe(record, target.parameter, int(getattr(target.module, "groups", 1)))
        if own is None or own.rank != said.rank or not math.isclose(own.scale, said.scale, rel_tol=1e-6):
            recorded = "nothing" if own is None else f"{own.rank}, {own.scale:g}"
            problems.append(f"{target.name} (rank {said.rank}, scale {said.scale:g}; {recorded})")
    if problems:
        raise AdapterFileError(
            f"adapter_config.json and loralab.json disagree about {'; '.join(problems)}: one of them was edited. "
            "Restore it, or remove loralab.json to follow adapter_config.json"
        )
