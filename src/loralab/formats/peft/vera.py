"""PEFT's files of VeRA, both ways: two vectors per layer, and once the projections that all layers share.

    base_model.vera_A [R, widest I]             base_model.vera_B [widest O, R]
    base_model.model.<path>.vera_lambda_d [R]   base_model.model.<path>.vera_lambda_b [O]

A file may lack the projections; PEFT then draws them again from `projection_prng_key`. Targets, heads and biases are
as in PEFT's files of LoRA (`reading.py`, `writing.py`). Shapes: R rank, I inputs, O outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.names import class_name, modules_by_path
from loralab.core.updates.factors import Recipe, SharedMatrices
from loralab.core.updates.low_rank import LinearUpdate
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import AdapterFileError
from loralab.files.names import CONFIG_NAME
from loralab.files.tensors import of_shape, refuse_unfit
from loralab.files.values import is_finite
from loralab.formats.peft.config import PeftVeraConfig, mistyped, parse_config
from loralab.formats.peft.keys import BIASES, PREFIX, WRAPPERS, PeftTarget, Plot, key_prefix
from loralab.formats.peft.reading import FileReading, expected_tensors, leave_out_foreign, plot_of, restore_in_full
from loralab.formats.peft.writing import (
    base_name,
    is_saved_in_full,
    shortest_names,
    task_type,
    tensors_in_full,
    trained_biases,
)
from loralab.formats.record import ModuleRecord, PartRecord
from loralab.formats.sidecar import Sidecar
from loralab.methods.vera import A_NAME, B_NAME, LAMBDA_B, LAMBDA_D, ScaledProjections, VeRA, projections
from loralab.nn.dense import dense_shape, is_dense
from loralab.nn.tensors import device_of

VERA_TYPE = "VERA"

_SEEDS = range(-(2**63), 2**64)
"""What torch takes as a seed."""
_AS_IN_LORA = frozenset({
    "base_model_name_or_path", "layers_pattern", "layers_to_transform", "modules_to_save", "peft_version",
    "target_modules", "task_type",
})  # fmt: skip
"""Keys that mean in VeRA's configuration what they mean in LoRA's."""
_OWN = frozenset({
    "auto_mapping", "bias", "d_initial", "fan_in_fan_out", "inference_mode", "init_weights", "peft_type",
    "projection_prng_key", "r", "revision", "save_projection", "vera_dropout",
})  # fmt: skip
"""The other keys: those that we act on, and those that say where the adapter came from or how it started."""


def parse_vera(content: Mapping[str, Any], source: str = CONFIG_NAME) -> PeftVeraConfig:
    """The settings; AdapterFileError naming every key whose value we cannot honour."""
    rank = content.get("r", VeRA.rank)
    common = {key: content[key] for key in _AS_IN_LORA & content.keys()} | {"peft_type": "LORA", "r": rank}
    problems = [*_problems(content), *mistyped(common)]
    if problems:
        raise AdapterFileError(f"{source} cannot be loaded as it is meant: " + "; ".join(sorted(problems)))
    bias, dropout = str(content.get("bias") or "none"), float(content.get("vera_dropout") or 0.0)
    return PeftVeraConfig(
        replace(parse_config(common, source), alpha=rank, bias=bias.replace("vera", "lora"), dropout=dropout),
        content.get("projection_prng_key", VeRA.projection_seed),
        content.get("save_projection", True),
        content.get("d_initial", VeRA.d_initial),
    )


def _problems(content: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys that are VeRA's own, and keys of which we cannot know what they do."""
    problems = (
        []
        if content.get("peft_type") == VERA_TYPE
        else [f"peft_type is {content.get('peft_type')!r}, not {VERA_TYPE!r}"]
    )
    problems += [
        f"{key} is {value!r}, which is not a setting of PEFT's VeRA, so what it changes is not known"
        for key, value in content.items()
        if value and key not in _OWN | _AS_IN_LORA
    ]
    if content.get("bias") not in (None, "none", "all", "vera_only"):
        problems.append(f"bias is {content['bias']!r}, not 'none', 'all' or 'vera_only'")
    dropout = content.get("vera_dropout") or 0.0
    if not is_finite(dropout) or not 0 <= dropout < 1:
        problems.append(f"vera_dropout is {dropout!r}, but must be in [0, 1)")
    seed = content.get("projection_prng_key", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed not in _SEEDS:
        problems.append(f"projection_prng_key is {seed!r}, not a whole number that torch takes as a seed")
    if not isinstance(content.get("save_projection", True), bool):
        problems.append(f"save_projection is {content['save_projection']!r}, not true or false")
    if not is_finite(content.get("d_initial", 0.1)):
        problems.append(f"d_initial is {content['d_initial']!r}, not a finite number")
    return problems


SHARED_PREFIX = "base_model."
"""What the keys of the projections begin with: they belong to PEFT's model around the model."""

_FROZEN = {A_NAME: False, B_NAME: False}
_DENSE = ("Linear", "Conv1D")
"""What PEFT's VeRA adapts, by the names of the classes; of what derives from nn.Linear, all."""


def has_vera(updates: Mapping[str, Update]) -> bool:
    """Whether some of the updates are VeRA's, so that PEFT's VeRA is the layout to try."""
    return bool(_scaled(updates))


# -- writing --------------------------------------------------------------------------------------------------


def why_not_peft_vera(updates: Mapping[str, Update], bases: Mapping[str, nn.Module]) -> list[str]:
    """Every reason why an adapter cannot be a VeRA adapter of PEFT's; none where it can."""
    reasons = [f"{path}: {why}" for path, update in updates.items() for why in _why_not(update, bases[path])]
    deltas = _scaled(updates).values()
    if not deltas:
        reasons.append("PEFT's VeRA needs a dense layer with VeRA's two vectors, and this adapter has none")
    if len({delta.recipe.rank for delta in deltas}) > 1:
        reasons.append("PEFT's VeRA has one rank for all layers, and this adapter has several")
    if len({id(delta.shared) for delta in deltas}) > 1:
        reasons.append("PEFT's VeRA has one pair of projections, and this adapter has several")
    return reasons


def vera_to_peft(
    updates: Mapping[str, Update],
    shared: SharedMatrices,
    bases: Mapping[str, nn.Module],
    spec: object,
    model: nn.Module | None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of adapter_config.json and the tensors by PEFT's keys, the projections among them.

    For updates that `why_not_peft_vera` has nothing against. `spec` is the VeRA, alone or among joint methods.
    """
    deltas = _scaled(updates)
    depths = dict.fromkeys(deltas, 1)
    heads = [path for path, update in updates.items() if is_saved_in_full(update)]
    tensors = _corner(shared, list(deltas.values()))
    for path, delta in deltas.items():
        stem = f"{PREFIX}{key_prefix(path, depths)}"
        tensors |= {f"{stem}.{name}": tensor.detach() for name, tensor in delta.stored()}
    tensors |= tensors_in_full(updates, bases, depths)
    return _content(updates, bases, heads, spec, model), tensors


def _scaled(updates: Mapping[str, Update]) -> dict[str, ScaledProjections]:
    """VeRA's updates of whole layers, by path."""
    deltas = {path: update.parts[WHOLE] for path, update in updates.items() if WHOLE in update.parts}
    return {path: delta for path, delta in deltas.items() if isinstance(delta, ScaledProjections)}


def _why_not(update: Update, base: nn.Module) -> list[str]:
    reasons = [f"it is {update.why_not_merged}"] if update.adds_tensors else []
    replaced = set(update.replacements())
    if not update.parts:
        whole = set(base.state_dict()) <= replaced
        return (
            reasons if whole or replaced <= BIASES else [*reasons, "PEFT trains all tensors of a module, or its bias"]
        )
    if type(update) is not LinearUpdate or not all(
        isinstance(each, ScaledProjections) for each in update.parts.values()
    ):
        reasons.append("PEFT's VeRA adapts dense layers by nothing but VeRA's two vectors")
    if class_name(base) not in _DENSE and not isinstance(base, nn.Linear):
        reasons.append(f"PEFT's VeRA adapts nn.Linear and transformers' Conv1D, and this is a {class_name(base)}")
    if set(update.parts) != {WHOLE}:
        reasons.append("PEFT's VeRA adapts whole layers, not parts of a fused one")
    if not replaced <= BIASES:
        reasons.append("PEFT does not replace other tensors than the bias of an adapted module")
    return reasons


def _corner(shared: SharedMatrices, deltas: Sequence[ScaledProjections]) -> dict[str, Tensor]:
    """The projections by PEFT's keys, as large as the widest of the layers: PEFT takes no others."""
    R = deltas[0].recipe.rank
    widest_in, widest_out = max(each.in_features for each in deltas), max(len(each.vera_lambda_b) for each in deltas)
    A, B = shared.matrix(A_NAME)[:R, :widest_in], shared.matrix(B_NAME)[:widest_out, :R]
    return {SHARED_PREFIX + A_NAME: A.detach(), SHARED_PREFIX + B_NAME: B.detach()}


def _content(
    updates: Mapping[str, Update],
    bases: Mapping[str, nn.Module],
    heads: Sequence[str],
    spec: object,
    model: nn.Module | None,
) -> dict[str, Any]:
    deltas = _scaled(updates)
    recipes = [delta.recipe for delta in deltas.values()]
    method = next((each for each in (spec, *getattr(spec, "specs", ())) if isinstance(each, VeRA)), VeRA())
    targets = tuple(deltas) if model is None else shortest_names(list(deltas), list(modules_by_path(model)))
    return {
        "auto_mapping": None,
        "base_model_name_or_path": base_name(model),
        "bias": trained_biases(updates).replace("lora", "vera"),
        "d_initial": method.d_initial,
        "fan_in_fan_out": any(class_name(bases[path]) == "Conv1D" for path in deltas),
        "inference_mode": True,
        "init_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "modules_to_save": list(heads) or None,
        "peft_type": VERA_TYPE,
        "projection_prng_key": method.projection_seed,
        "r": recipes[0].rank,
        "revision": None,
        "save_projection": True,
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "task_type": task_type(model, heads),
        "vera_dropout": max(recipe.dropout for recipe in recipes),
    }


# -- reading --------------------------------------------------------------------------------------------------


def vera_from_peft(
    model: nn.Module, config: PeftVeraConfig, tensors: Mapping[str, Tensor], sidecar: Sidecar | None = None
) -> tuple[dict[str, Update], SharedMatrices, list[str]]:
    """The updates by path, filled, the projections they share, and notes; AdapterFileError listing all problems.

    With the sidecar that loralab wrote, the modules and tensors are those it names. Projections that the file lacks
    are drawn as PEFT draws them for this model. Nothing of the model is changed.
    """
    own, shared_tensors = _apart(tensors)
    reading = FileReading.of(model, config.common, own, sidecar)
    plot = plot_of(reading)
    _refuse_unlike(plot, config, sidecar)
    leave_out_foreign(reading, plot)
    sizes = _projection_sizes(plot.targets, config.common.rank)
    expected = _expected_tensors(reading, plot)
    if config.save_projection or shared_tensors:
        expected |= {SHARED_PREFIX + name: of_shape(size) for name, size in sizes.items()}
    there = reading.tensors | {SHARED_PREFIX + name: each for name, each in shared_tensors.items()}
    refuse_unfit(there, expected)
    shared = _projections(reading, plot, config, shared_tensors, sizes)
    return _filled(reading, plot, config.recipe, shared), shared, reading.notes


def _apart(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(all tensors but the projections, the projections by name): those are not below PEFT's usual prefix."""
    own, shared = {}, {}
    for key, tensor in tensors.items():
        plain = ".".join(piece for piece in key.split(".") if piece not in (*WRAPPERS, "module"))
        name = plain.removeprefix(SHARED_PREFIX)
        if name not in _FROZEN:
            own[key] = tensor
        elif name in shared:
            raise AdapterFileError(f"after taking wrappers' names out of the keys, there are two of {name}")
        else:
            shared[name] = tensor
    return own, shared


def _refuse_unlike(plot: Plot, config: PeftVeraConfig, sidecar: Sidecar | None) -> None:
    """Every target must be a dense layer, and loralab.json must say of it what adapter_config.json says."""
    problems = [
        f"target_modules names {target.path}, a {type(target.module).__name__}, and VeRA adapts dense layers only"
        for target in plot.targets
        if target.parameter is not None or not is_dense(target.module)
    ]
    for path, record in ({} if sidecar is None else sidecar.modules).items():
        said = record.kind, {part: (each.kind, each.recipe.rank) for part, each in record.parts.items()}
        scaled = "linear", {WHOLE: (ScaledProjections.kind, config.common.rank)}
        if said not in (scaled, ("replacement", {})):
            problems.append(f"loralab.json and adapter_config.json disagree about {path}: restore the one that changed")
    if not plot.targets:
        problems.append("it names no layer with VeRA's vectors")
    if problems:
        raise AdapterFileError("the adapter does not fit this model: " + "; ".join(problems))


def _projection_sizes(targets: Sequence[PeftTarget], rank: int) -> dict[str, tuple[int, int]]:
    """A [R, I] and B [O, R] with the largest I and the largest O of the targets, be they of different layers."""
    shapes = [dense_shape(target.module) for target in targets]
    return {A_NAME: (rank, max(inputs for _, inputs in shapes)), B_NAME: (max(outputs for outputs, _ in shapes), rank)}


def _expected_tensors(reading: FileReading, plot: Plot) -> dict[str, Tensor]:
    """Key → the like of every tensor that the file must hold, but the projections."""
    expected = expected_tensors(reading, replace(plot, targets=[]))
    for target in plot.targets:
        stem, outputs = plot.stem(target), dense_shape(target.module)[0]
        expected |= {stem + LAMBDA_B: of_shape((outputs,)), stem + LAMBDA_D: of_shape((reading.config.rank,))}
    return expected


def _projections(
    reading: FileReading,
    plot: Plot,
    config: PeftVeraConfig,
    stored: Mapping[str, Tensor],
    sizes: Mapping[str, tuple[int, int]],
) -> SharedMatrices:
    """The file's, or drawn again; an error where the file's are not those that PEFT would use."""
    device = device_of(plot.targets[0].module)
    matrices = {name: _wide(tensor, device) for name, tensor in stored.items()}
    if config.save_projection:
        return SharedMatrices(matrices, _FROZEN)
    drawn = projections(config.common.rank, sizes[B_NAME][0], sizes[A_NAME][1], config.projection_seed, device)
    again = {name: _rounded(matrix, plot.targets) for name, matrix in drawn.stored()}
    if any(not torch.equal(_wide(again[name], device), matrix) for name, matrix in matrices.items()):
        raise AdapterFileError(
            f"the file holds projections, but save_projection is false: PEFT would leave them and draw others from "
            f"projection_prng_key {config.projection_seed}. If it was trained with those of the file, set "
            "save_projection to true in adapter_config.json; if not, take them out of the file"
        )
    reading.notes.append(
        f"the file holds no projections: they were drawn again from projection_prng_key {config.projection_seed}, "
        "which gives those of the training only if torch's generator gives the same numbers here and the base has the "
        "precision it had then"
    )
    return SharedMatrices(again, _FROZEN)


def _rounded(matrix: Tensor, targets: Sequence[PeftTarget]) -> Tensor:
    """What PEFT makes of a fresh projection: it takes on the dtype of each adapted layer, and float32 in the end."""
    for target in targets:
        weight = target.module._parameters.get(WHOLE)
        if weight is not None and weight.is_floating_point():
            matrix = matrix.to(weight.dtype)
    return matrix.to(torch.promote_types(matrix.dtype, torch.float32))


def _filled(reading: FileReading, plot: Plot, recipe: Recipe, shared: SharedMatrices) -> dict[str, Update]:
    by_path = reading.by_path
    stems = {target.path: plot.stem(target) for target in plot.targets}
    order = by_path if reading.sidecar is None else reading.sidecar.modules
    updates = {
        path: vera_record(recipe, dense_shape(by_path[path])).build(path, by_path[path], shared)
        if path in stems
        else Update({})
        for path in order
        if path in stems or path in plot.replaced
    }
    for path, stem in stems.items():
        updates[path].delta_of(WHOLE).fill({name: reading.tensors[stem + name] for name in (LAMBDA_B, LAMBDA_D)})
    restore_in_full(reading, plot, updates)
    return updates


def vera_record(recipe: Recipe, shape: tuple[int, int]) -> ModuleRecord:
    """The structure of VeRA's update of a layer with a weight of this shape [O, I]."""
    return ModuleRecord("linear", {WHOLE: PartRecord(recipe, kind=ScaledProjections.kind, shape=shape)})


def _wide(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on this device, in at least float32."""
    return tensor.detach().to(device, torch.promote_types(tensor.dtype, torch.float32), copy=True)
