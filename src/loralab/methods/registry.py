"""From settings to the specification of a method, and from the names in files to the classes they stand for."""

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

from loralab.core.plan import JointMethod, Method
from loralab.core.updates.factors import LowRankDelta
from loralab.errors import SpecError
from loralab.methods.settings import MethodSettings
from loralab.methods.table import METHODS, MethodRow


def specification(settings: MethodSettings) -> Method:
    """The method that the settings describe; several joined by `+` are one `JointMethod`. Raises SpecError."""
    problems = settings.method_problems()
    if problems:
        raise SpecError("; ".join(problems))
    specs = tuple(_make(METHODS[name], settings) for name in settings.method.split("+"))
    return specs[0] if len(specs) == 1 else JointMethod(specs)


def specs() -> Mapping[str, type[Any]]:
    """What loralab.json calls a specification → the specification."""
    return {spec.__name__: spec for spec in (_load(row.spec) for row in METHODS.values())}


def deltas() -> Mapping[str, type[LowRankDelta]]:
    """What loralab.json calls an update that is not a plain pair → its class."""
    return {delta.kind: delta for delta in (_load(row.delta) for row in METHODS.values() if row.delta)}


def _make(row: MethodRow, settings: MethodSettings) -> Method:
    """Every field of the class that a setting gives, then what the row fixes."""
    spec = _load(row.spec)
    fixed = {name: value for name, value in row.fixed.items() if hasattr(settings, name)}
    settings = replace(settings, **fixed)
    taken = {each.name: row.called.get(each.name, each.name) for each in fields(spec)}
    given = {name: getattr(settings, setting, None) for name, setting in taken.items() if setting is not None}
    said = {name: value for name, value in given.items() if value is not None}
    method: Method = spec(**(dict(row.fixed) | said))
    return method


def _load(named: str | type[Any]) -> type[Any]:
    if isinstance(named, type):
        return named
    module, _, name = named.partition(":")
    loaded: type[Any] = getattr(import_module(module), name)
    return loaded
