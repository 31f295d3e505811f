"""Checkpoints of the paper's own library, loralib: read for a model, and their names written.

`<module>.lora_A` and `<module>.lora_B`, and beside them any tensors of the model that were trained in full. A fused
projection (loralib's MergedLinear) stores the A of its n enabled parts stacked, [n·R, I], and their B likewise,
[n·O/3, R]. The file records neither alpha nor which parts are enabled: two of three are taken to be q and v, the
paper's choice for GPT-2. Convolutions are stored as loralib's own product of matrices and are not read.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from loralab.core.names import modules_by_path
from loralab.core.plan import Plan
from loralab.core.updates.build import kind_of
from loralab.core.updates.factors import usual_and_others
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import AdapterFileError, SpecError, listed
from loralab.formats.record import ModuleRecord, PartRecord, rows_of, runs_of
from loralab.formats.stored import StoredAdapter, StoredUpdate
from loralab.methods.lora import LoRA
from loralab.models.families.aliases import fused_layout
from loralab.nn.dense import dense_shape, is_dense
from loralab.nn.tensors import has_tensor, tensor_of

A, B = "lora_A", "lora_B"
ALPHA_KEY = "lora_alpha"
"""Metadata under which a checkpoint that we wrote records the alpha that loralib's format has no place for."""

ENABLED = {2: ("q", "v"), 3: ("q", "k", "v")}
"""How many parts of a fused projection are enabled → which."""


def from_checkpoint(stored: StoredAdapter, model: nn.Module) -> Plan:
    """The updates of a checkpoint for a model, filled; AdapterFileError listing all that does not fit.

    Raises SpecError where the alpha is not known. Nothing of the model is changed.
    """
    if stored.alpha is None:
        raise SpecError(
            f"{stored.source} is a loralib checkpoint, which does not record alpha; pass the alpha it was trained "
            "with, as load(model, path, alpha=16)"
        )
    by_path = modules_by_path(model)
    notes: list[str] = []
    problems: list[str] = []
    updates: dict[str, Update] = {}
    for each in stored.demand().updates:
        path, module = each.name, by_path.get(each.name)
        if module is None:
            problems.append(f"{path}.lora_A belongs to no module of the model")
            continue
        record = _record(model, module, each, stored.rank_stabilized)
        if record is None:
            problems.append(
                f"{path} is {module}, and lora_A {list(each.A.shape)} with lora_B {list(each.B.shape)} fits neither it "
                "nor two or three thirds of it"
            )
            continue
        updates[path] = record.build(path, module)
        _fill(updates[path], each.A, each.B)
        if WHOLE not in record.parts:
            notes.append(
                f"{path}: the file has {len(record.parts)} of its parts, taken to be {', '.join(record.parts)}"
            )
    _add_others(by_path, updates, stored.others, problems)
    if problems:
        raise AdapterFileError(f"the checkpoint does not fit this model: {listed(sorted(problems))}")
    return Plan({path: updates[path] for path in by_path if path in updates}, tuple(notes))


def _record(model: nn.Module, module: nn.Module, pair: StoredUpdate, rank_stabilized: bool) -> ModuleRecord | None:
    """The structure that a pair of this shape has at this module, or None if it does not fit."""
    recipe, kind = replace(pair.recipe, rank_stabilized=rank_stabilized), kind_of(module)
    R, shapes = recipe.rank, (tuple(pair.A.shape), tuple(pair.B.shape))
    whole = ModuleRecord(kind, {WHOLE: PartRecord(recipe)})
    if kind == "embedding":
        V, D = tensor_of(module, WHOLE).shape
        return whole if shapes == ((R, V), (D, R)) else None
    if not is_dense(module):
        return None
    O, I = dense_shape(module)  # noqa: E741
    if shapes == ((R, I), (O, R)):
        return whole
    count, rest = divmod(shapes[0][0], R)
    parts = ENABLED.get(count)
    if rest or parts is None or shapes != ((count * R, I), (count * (O // 3), R)) or O % 3:
        return None
    layout = fused_layout(model, pair.name, O) or dict(zip("qkv", rows_of([[0, O]]).chunk(3), strict=True))
    return ModuleRecord("linear", {part: PartRecord(recipe, runs_of(layout[part].tolist())) for part in parts})


def _fill(update: Update, A_values: Tensor, B_values: Tensor) -> None:
    count = len(update.parts)
    for part, A_part, B_part in zip(update.parts, A_values.chunk(count), B_values.chunk(count), strict=True):
        update.factors_of(part).fill({A: A_part, B: B_part})


def _add_others(
    by_path: Mapping[str, nn.Module], updates: dict[str, Update], others: Mapping[str, Tensor], problems: list[str]
) -> None:
    """Let the file's other tensors replace the model's own."""
    for name, tensor in others.items():
        path, _, leaf = name.rpartition(".")
        if path not in by_path or not has_tensor(by_path[path], leaf):
            problems.append(f"{name} belongs to nothing in the model")
            continue
        own = tensor_of(by_path[path], leaf)
        if own.shape != tensor.shape:
            problems.append(f"{name} has shape {list(tensor.shape)}, not {list(own.shape)}")
        elif path in updates and leaf in updates[path].built_on(by_path[path]):
            problems.append(f"{name} is in the file in full beside its own low-rank update")
        else:
            updates.setdefault(path, Update({})).restore(leaf, tensor, by_path[path])


def loralib_spec(stored: StoredAdapter, plan: Plan) -> LoRA:
    """The specification that comes nearest."""
    updates = plan.updates
    recipes = {path: update.factors_of(part).recipe for path, update in updates.items() for part in update.parts}
    usual, ranks, _ = usual_and_others(recipes)
    targets = [
        path if WHOLE in update.parts else f"{path}[{','.join(update.parts)}]"
        for path, update in updates.items()
        if len(update.parts)
    ]
    return LoRA(
        rank=usual.rank,
        alpha=stored.alpha or 1.0,
        targets=targets,
        rank_pattern=ranks,
        bias="lora_only"
        if any("bias" in each.replacements() for each in updates.values() if len(each.parts))
        else "none",
        modules_to_save=[path for path, update in updates.items() if not len(update.parts)],
        rank_stabilized=stored.rank_stabilized,
    )


# -- without a model -------------------------------------------------------------------------------------------------


def spread(path: str, count: int, B_values: Tensor) -> Tensor:
    """loralib's stacked B [n·O/3, R] → [O, n·R], each part in its own rows and columns."""
    if count not in ENABLED:
        raise AdapterFileError(
            f"{path} has {count} enabled parts of a fused projection; which ones is known for "
            f"{' and '.join(map(str, ENABLED))} only"
        )
    third, rank = len(B_values) // count, B_values.shape[-1]
    spread = B_values.new_zeros(3 * third, count * rank)
    for number, (part, values) in enumerate(zip(ENABLED[count], B_values.chunk(count), strict=True)):
        row = "qkv".index(part) * third
        spread[row : row + third, number * rank : (number + 1) * rank] = values
    return spread


def loralib_pair(pair: StoredUpdate, stored: StoredAdapter) -> tuple[Tensor, Tensor, float]:
    """(A, B, alpha) as loralib has them; parts that are thirds of a fused projection as its MergedLinear."""
    record = None if stored.sidecar is None else stored.sidecar.modules.get(pair.name)
    B_stacked = None if record is None else _stacked(record, pair.B)
    if record is None or B_stacked is None:
        return pair.A, pair.B, pair.recipe.scale * pair.recipe.rank
    recipe = next(iter(record.parts.values())).recipe
    return pair.A, B_stacked, recipe.scale * recipe.rank


def _stacked(record: ModuleRecord, B_spread: Tensor) -> Tensor | None:
    """[O, n·R] → loralib's [n·O/3, R], or None where loralib cannot say which rows they are."""
    third = len(B_spread) // 3
    recipes = {each.recipe for each in record.parts.values()}
    is_merged = tuple(record.parts) == ENABLED.get(len(record.parts)) and len(recipes) == 1
    expected = {
        part: [["qkv".index(part) * third, ("qkv".index(part) + 1) * third]] for part in record.parts if part in "qkv"
    }
    if not is_merged or any(each.rows != expected[part] for part, each in record.parts.items()):
        return None
    columns = B_spread.chunk(len(record.parts), dim=1)
    return torch.cat([values[rows[0][0] : rows[0][1]] for values, rows in zip(columns, expected.values(), strict=True)])
