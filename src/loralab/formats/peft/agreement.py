"""Whether the files of a PEFT folder tell one story by themselves, without any model.

PEFT drops tensors that its configuration does not name, reads them at the rank that the configuration says, and scales
by that; loralab.json says all of it again. Where two of the three differ, one of them was changed or is another
adapter's. With the model at hand `reading.py` holds them against its modules as well.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from loralab.core.updates.factors import Recipe
from loralab.core.updates.update import WHOLE
from loralab.errors import some
from loralab.files.names import CONFIG_NAME, SIDECAR_NAME
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.keys import ALL_LINEAR, is_named, is_target, parameters_of, targets_without
from loralab.formats.record import ModuleRecord
from loralab.formats.stored import StoredUpdate

RESTORE = f"restore the {CONFIG_NAME} that was saved with the tensors"
FOLLOW = f"restore it, or remove {SIDECAR_NAME} to follow {CONFIG_NAME}"

Disagreement = tuple[str, str]
"""What differs, and what to do."""


def disagreements(
    config: PeftConfig, records: Mapping[str, ModuleRecord] | None, entries: Sequence[StoredUpdate]
) -> Iterator[Disagreement]:
    """All that the configuration says otherwise than the tensors, or than loralab.json (`records`), where that is."""
    yield from _unnamed(config, entries)
    yield from _other_ranks(entries)
    if records is not None:
        yield from unheld(config, records)
        yield from _other_scales(entries, records)


def packed_recipe(record: ModuleRecord, parameter: str | None = None, groups: int = 1) -> Recipe | None:
    """Rank and scale of the one entry that PEFT's layout has for a module, or for this raw parameter of it.

    `layout.pack` says why: the ranks of the parts one after another, at the largest of their scales. None where the
    record has nothing of the kind.
    """
    recipes = {part: each.recipe for part, each in record.parts.items()}
    if record.kind == "parameters":
        return recipes.get(parameter or "")
    if not recipes:
        return None
    into = sum(recipe.rank for part, recipe in recipes.items() if part != "out")
    out = recipes["out"].rank if "out" in recipes else 0
    rank = max(into, out) if record.kind == "attention" else into + out
    return max(recipes.values(), key=lambda recipe: abs(recipe.scale)).at_rank(rank * groups)


def _is_target(name: str, config: PeftConfig) -> bool:
    whole = isinstance(config.targets, str) and config.targets.lower() == ALL_LINEAR
    return whole or is_target(name, config) or is_target(f"{name}.{WHOLE}", config)


def _unnamed(config: PeftConfig, entries: Sequence[StoredUpdate]) -> Iterator[Disagreement]:
    parameters = parameters_of(config)
    names = dict.fromkeys(entry.module for entry in entries)
    outside = [name for name in names if not _is_target(name, config) and not is_named(name, parameters)]
    if outside:
        what = f"target_modules does not name {some(outside)}, whose factors are in the file: PEFT would drop them"
        yield what, f"add them to target_modules, or {RESTORE}"


def _other_ranks(entries: Sequence[StoredUpdate]) -> Iterator[Disagreement]:
    """Of experts and other raw parameters only the model can tell."""
    wrong = [
        f"{entry.name} ({len(entry.A)} in the file, {entry.recipe.rank} in the configuration)"
        for entry in entries
        if entry.kind in ("linear", "embedding", "conv", "attention output") and len(entry.A) != entry.recipe.rank
    ]
    if wrong:
        what = f"{len(wrong)} ranks differ: {some(wrong)}; the scale alpha/r would be wrong too"
        yield what, f"correct r or rank_pattern, or {RESTORE}"


def unheld(config: PeftConfig, records: Mapping[str, ModuleRecord]) -> Iterator[Disagreement]:
    """What loralab wrote names nothing that has no tensors."""
    raw = [f"{path}.{part}" for path, record in records.items() if record.kind == "parameters" for part in record.parts]
    held = [*records, *(f"{path}.{WHOLE}" for path in records), *(name.removesuffix(f".{WHOLE}") for name in raw)]
    if missing := targets_without(config, held):
        yield f"it targets {some(missing)}, of which {SIDECAR_NAME} and the tensors have nothing", FOLLOW


def _other_scales(entries: Sequence[StoredUpdate], records: Mapping[str, ModuleRecord]) -> Iterator[Disagreement]:
    differing = []
    for entry in entries:
        own, said = _recorded(entry, records), entry.recipe
        if own is None or not math.isclose(own.scale, said.scale, rel_tol=1e-6):
            has = "nothing" if own is None else f"scale {own.scale:g}"
            differing.append(f"{entry.name} (scale {said.scale:g} in {CONFIG_NAME}, {has} in {SIDECAR_NAME})")
    if differing:
        yield f"the files disagree about {some(differing)}: one of them was edited", FOLLOW


def _recorded(entry: StoredUpdate, records: Mapping[str, ModuleRecord]) -> Recipe | None:
    path, _, parameter = entry.module.rpartition(".")
    record = records.get(entry.module)
    if record is not None:
        return packed_recipe(record, WHOLE)
    return packed_recipe(records[path], parameter) if path in records else None
