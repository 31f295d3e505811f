"""loralab.json: what an adapter folder says beyond PEFT's own two files, which it leaves undisturbed.

The specification, the exact structure of every update (so that parts of a fused projection come back as parts), the
base's fingerprint, and the hash of the tensor file that it belongs to. Knows nothing of tensors.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from loralab.core.names import modules_by_path
from loralab.core.plan import JointMethod
from loralab.core.updates.factors import usual_and_others
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import AdapterFileError, SpecError
from loralab.files.names import SIDECAR_NAME
from loralab.files.values import flag, listing, mapping, text, texts
from loralab.files.whole import read_json
from loralab.formats.fingerprint import Fingerprint, fingerprint_under
from loralab.formats.record import ModuleRecord, check_leaders, recorded_rows
from loralab.methods.registry import specs

VERSION = 1
PEFT_LAYOUT, OWN_LAYOUT = "peft", "own"


@dataclass(frozen=True)
class Sidecar:
    """The content of loralab.json."""

    layout: str
    method: Mapping[str, Any]
    modules: Mapping[str, ModuleRecord]
    fingerprint: Fingerprint
    tensors_sha256: str
    notes: Sequence[str] = ()
    heads: tuple[str, ...] = ()
    shared: Mapping[str, bool] = field(default_factory=dict)
    """Matrices that several modules share, by name: whether each trains."""
    labels: tuple[str, ...] = ()
    """The classes in the order of the model's outputs, where the model names them."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "format": VERSION,
            "layout": self.layout,
            "method": dict(self.method),
            "modules": {path: record.to_json() for path, record in self.modules.items()},
            "fingerprint": self.fingerprint.to_json(),
            "tensors_sha256": self.tensors_sha256,
            "notes": list(self.notes),
            "heads": list(self.heads),
            **({"shared": dict(self.shared)} if self.shared else {}),
            **({"labels": list(self.labels)} if self.labels else {}),
        }

    def at_ranks(self, ranks: Mapping[tuple[str, str], int], why: str) -> "Sidecar":
        """That of the adapter with other ranks by module path and part, and a note of why."""
        lost = [path for path, _ in ranks if path not in self.modules]
        if lost:
            raise AdapterFileError(f"{SIDECAR_NAME} says nothing of {', '.join(lost)}, which the tensor file holds")
        by_path = {path: {part: rank for (of, part), rank in ranks.items() if of == path} for path in self.modules}
        modules = {path: record.at_ranks(by_path[path]) for path, record in self.modules.items()}
        recipes = {
            path if part == WHOLE else f"{path}[{part}]": modules[path].parts[part].recipe for path, part in ranks
        }
        usual, others, alphas = usual_and_others(recipes)
        fields = {"rank": usual.rank, "alpha": usual.alpha, "rank_pattern": others, "alpha_pattern": alphas}
        method = _method_with(self.method, fields)
        return dataclasses.replace(self, modules=modules, method=method, notes=[*self.notes, why])

    def spec(self) -> object | None:
        """The method's specification, or None if it is of a kind that cannot be made anew (a combination)."""
        try:
            spec: object | None = method_from_json(self.method)
        except (SpecError, TypeError) as problem:
            raise AdapterFileError(f"invalid specification in {SIDECAR_NAME}: {problem}") from problem
        return spec

    def check_base(self, updates: Mapping[str, Update], model: nn.Module) -> None:
        """FingerprintError unless these updates, for this model, are on the base that they were trained on."""
        self.fingerprint.check(fingerprint_under(updates, modules_by_path(model), model, self.heads))

    def check_belongs(self, tensors: Path) -> None:
        """AdapterFileError unless this file was written together with that tensor file."""
        if file_sha256(tensors) != self.tensors_sha256:
            raise AdapterFileError(
                f"{tensors.name} in {tensors.parent} is not the file that {SIDECAR_NAME} was written with: a save was "
                f"interrupted, or a file was replaced. Save the adapter again, or remove {SIDECAR_NAME} to load "
                "what is there as a plain PEFT adapter"
            )


def read_sidecar(folder: Path) -> Sidecar | None:
    """The folder's loralab.json, None where there is none; AdapterFileError if it is damaged or of a later version."""
    path = folder / SIDECAR_NAME
    if not os.path.lexists(path):  # a link to nothing is a file that was lost
        return None
    content = read_json(path)
    if content.get("format") != VERSION:
        raise AdapterFileError(
            f"{path} has format {content.get('format')!r}, and this loralab reads {VERSION}; upgrade loralab"
        )
    try:
        records = mapping(content["modules"], "modules")
        read = Sidecar(
            text(content["layout"], "layout"),
            dict(mapping(content["method"], "method")),
            {path: ModuleRecord.from_json(mapping(record, path)) for path, record in records.items()},
            Fingerprint.from_json(mapping(content["fingerprint"], "fingerprint")),
            text(content["tensors_sha256"], "tensors_sha256"),
            texts(content.get("notes", []), "notes"),
            tuple(texts(content.get("heads", []), "heads")),
            {name: flag(trains, name) for name, trains in mapping(content.get("shared", {}), "shared").items()},
            tuple(texts(content.get("labels", []), "labels")),
        )
        check_leaders(
            {path: recorded_rows(each.settings) for path, each in read.modules.items() if each.kind == "token rows"}
        )
    except (KeyError, TypeError) as problem:
        raise AdapterFileError(f"{path} is damaged ({problem!r}); save the adapter again") from problem
    read.spec()
    return read


def method_to_json(spec: object) -> dict[str, Any]:
    """A specification (any frozen dataclass) as JSON, with its type; a combination as those that it is made of."""
    if isinstance(spec, JointMethod):
        return {"type": "JointMethod", "specs": [method_to_json(each) for each in spec.specs]}
    fields = _plain(dataclasses.asdict(spec)) if dataclasses.is_dataclass(spec) and not isinstance(spec, type) else {}
    return {"type": type(spec).__name__, **fields}


def method_from_json(content: Mapping[str, Any]) -> Any:
    """The inverse; None for a type that is not known. Raises SpecError or TypeError for fields that cannot be."""
    fields = dict(content)
    kind = text(fields.pop("type", ""), "type")
    if kind == "JointMethod":
        joined = listing(fields.get("specs"), "specs")
        return JointMethod(tuple(method_from_json(mapping(each, "spec")) for each in joined))
    spec = specs().get(kind)
    return None if spec is None else spec(**fields)


def _method_with(method: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The specification with the new ranks, wherever it is LoRA's."""
    if method.get("type") == "JointMethod":
        return dict(method) | {"specs": [_method_with(each, fields) for each in method["specs"]]}
    return dict(method) | (dict(fields) if method.get("type") == "LoRA" else {})


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return [_plain(each) for each in value]
