"""An adapter on disk as far as it can be read: what is damaged becomes a finding, and the rest is still looked at.

Loading is strict (`adapter_folder.py`); this is for saying all that is wrong at once.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from loralab.core.adapter import SHARED
from loralab.core.updates.factors import Recipe, SharedMatrices
from loralab.core.updates.update import WHOLE
from loralab.errors import AdapterFileError, LoralabError, NotFoundError, SpecError
from loralab.files.tensor_checks import is_finite
from loralab.files.tensors import read_tensors
from loralab.formats.delta_pairs import local_keys, shared_matrices, special_pairs, vera_pairs
from loralab.formats.finding import Finding, some
from loralab.formats.folder import OLD_TENSORS_NAME, TENSORS_NAME, config_content, tensors_path
from loralab.formats.loralib import ALPHA_KEY
from loralab.formats.peft.config import CONFIG_NAME, OWN_TYPE, PeftConfig, parse_config
from loralab.formats.peft.dialects import as_plain_lora
from loralab.formats.peft.reading import plain_names
from loralab.formats.peft.vera_config import is_vera, parse_vera
from loralab.formats.record import ModuleRecord
from loralab.formats.sidecar import SIDECAR_NAME, Sidecar, read_sidecar
from loralab.formats.updates import FilePair, file_pairs

AGAIN = "get or save the adapter again"
_FACTOR = re.compile(r"(?P<stem>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?P<end>\.weight)?")
_DECIDE_SCALES = (
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "target_parameters",
)
UNEXPECTED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""What a value of the wrong type, deep in a damaged file, raises where it is used."""
Read = TypeVar("Read")


def unexpected(problem: Exception) -> str:
    """What to say of an error that no reader foresaw."""
    return f"reading it fails where it should not: {type(problem).__name__}: {problem}; a value is of a wrong type"


@dataclass
class Specimen:
    """What could be read of an adapter, and what was wrong with it."""

    source: Path
    content: Mapping[str, Any] = field(default_factory=dict)
    """adapter_config.json; empty where there is none or it cannot be read."""
    config: PeftConfig | None = None
    """None for other layouts than PEFT's, and where not even ranks and scales can be told."""
    sidecar: Sidecar | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By key, without PEFT's prefix."""
    pairs: list[FilePair] = field(default_factory=list)
    """Whole, finite, and fitting each other."""
    others: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that are no low-rank factors."""
    alpha_is_known: bool = True
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_own(self) -> bool:
        """Whether it is of loralab's own layout, which PEFT cannot express."""
        return self.content.get("peft_type") == OWN_TYPE

    @property
    def file(self) -> str:
        """What the tensors' file is called."""
        return TENSORS_NAME if self.source.is_dir() else self.source.name

    def attempt(self, where: str, advice: str, read: Callable[[], Read]) -> Read | None:
        """What `read` gives; None and a finding where it raises."""
        try:
            return read()
        except LoralabError as problem:
            self.findings.append(Finding("error", where, str(problem), advice))
        except UNEXPECTED as problem:
            self.findings.append(Finding("error", where, unexpected(problem), AGAIN))
        return None


def read_specimen(path: str | Path, alpha: float | None = None) -> Specimen:
    """Read an adapter folder or a loralib checkpoint.

    Raises NotFoundError where there is no adapter at all, SpecError for an `alpha` that a folder itself says.
    """
    source = Path(path)
    if not source.is_dir():
        return _checkpoint(source, alpha)
    if alpha is not None:
        raise SpecError(f"alpha {alpha:g} was given for {source}, whose {CONFIG_NAME} says its own; leave it out")
    if not any((source / name).exists() for name in (CONFIG_NAME, TENSORS_NAME, OLD_TENSORS_NAME)):
        config_content(source)
    return _folder(Specimen(source))


def _folder(found: Specimen) -> Specimen:
    content = found.attempt(CONFIG_NAME, AGAIN, lambda: config_content(found.source))
    found.content = content or {}
    found.sidecar = found.attempt(SIDECAR_NAME, f"{AGAIN}, or remove it", lambda: _sidecar(found.source))
    file = found.attempt(TENSORS_NAME, AGAIN, lambda: read_tensors(tensors_path(found.source)))
    if file is not None and found.sidecar is not None:
        _check_belongs(found, found.sidecar, file.path)
    tensors = {} if file is None else _in_plain_words(found, file.tensors)
    if not found.is_own and found.content:
        found.config = _config(found)
    if file is not None:
        plain = found.attempt(TENSORS_NAME, AGAIN, lambda: plain_names(tensors))
        found.tensors = plain[0] if plain else tensors
        _take_apart(found)
    return found


def _in_plain_words(found: Specimen, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, and in `found` the configuration, of the plain LoRA that a dialect of PEFT's comes to."""
    plain = found.attempt(CONFIG_NAME, AGAIN, lambda: as_plain_lora(found.content, tensors))
    if plain is None:
        return tensors
    found.content = plain.content
    advice = "loralab convert --to peft writes that plain LoRA"
    found.findings += [Finding("note", CONFIG_NAME, note, advice) for note in plain.notes]
    return plain.tensors


def _sidecar(folder: Path) -> Sidecar | None:
    sidecar = read_sidecar(folder)
    if sidecar is not None:
        for record in sidecar.modules.values():
            scales = [each.recipe.scale for each in record.parts.values()]
            if not all(map(math.isfinite, scales)):
                raise AdapterFileError(f"{folder / SIDECAR_NAME} has scales that are not finite: {scales}")
    return sidecar


def _check_belongs(found: Specimen, sidecar: Sidecar, tensors: Path) -> None:
    try:
        sidecar.check_belongs(tensors)
    except AdapterFileError as problem:
        found.findings.append(Finding("error", SIDECAR_NAME, str(problem), AGAIN))


def _config(found: Specimen) -> PeftConfig | None:
    """The configuration, or of one with settings that are not supported what says ranks and scales."""
    if is_vera(found.content):
        found.attempt(CONFIG_NAME, AGAIN, lambda: parse_vera(found.content, str(found.source / CONFIG_NAME)))
        return None
    advice = "do what is said there, or train again without"
    config = found.attempt(CONFIG_NAME, advice, lambda: parse_config(found.content, str(found.source / CONFIG_NAME)))
    if config is not None:
        return config
    kept = {key: found.content[key] for key in _DECIDE_SCALES if key in found.content}
    try:
        return parse_config({**kept, "peft_type": "LORA"}, CONFIG_NAME)
    except (AdapterFileError, *UNEXPECTED):
        return None


def _checkpoint(source: Path, alpha: float | None) -> Specimen:
    if not source.exists():
        raise NotFoundError(f"{source} was asked for as an adapter, but there is no such folder or file")
    found = Specimen(source)
    file = found.attempt(source.name, AGAIN, lambda: read_tensors(source))
    if file is not None:
        found.tensors = {name.removeprefix("module."): each for name, each in file.tensors.items()}
        known = alpha
        if alpha is None and ALPHA_KEY in file.metadata:
            known = found.attempt(source.name, "give it, as --alpha 16", lambda: float(file.metadata[ALPHA_KEY]))
        found.alpha_is_known = known is not None
        _take_apart(found, known or 1.0)
    return found


# -- tensors ----------------------------------------------------------------------------------------------------


def _take_apart(found: Specimen, alpha: float = 1.0) -> None:
    """Sort the tensors into whole pairs and others; what cannot be used is a finding."""
    spoilt = _spoilt(found)
    whole: dict[str, Tensor] = {}
    lost, unfit = [], []
    for key_A, key_B in _pairs_of_keys(found.tensors):
        if key_A not in found.tensors or key_B not in found.tensors:
            lost.append(key_A if key_A not in found.tensors else key_B)
        elif not _fit(found.tensors[key_A], found.tensors[key_B]):
            unfit.append(f"{key_A} {list(found.tensors[key_A].shape)}, {key_B} {list(found.tensors[key_B].shape)}")
        elif not {key_A, key_B} & spoilt:
            whole |= {key: found.tensors[key] for key in (key_A, key_B)}
    for problems, what in ((lost, "are missing, their other factor is there"), (unfit, "do not fit each other")):
        if problems:
            found.findings.append(Finding("error", found.file, f"{some(problems)} {what}", AGAIN))
    found.others = {
        key: each for key, each in found.tensors.items() if not _FACTOR.fullmatch(key) and key not in spoilt
    }
    if is_vera(found.content):
        read = found.attempt(found.file, AGAIN, lambda: vera_pairs(found.content, found.tensors, found.sidecar))
        found.pairs, found.others = read if read is not None else ([], found.others)
    else:
        found.pairs = list(_own_pairs(found, whole) if found.is_own else _pairs(found, whole, alpha))


def _spoilt(found: Specimen) -> set[str]:
    """Keys of tensors that hold NaN or infinity, or nothing."""
    empty = [key for key, each in found.tensors.items() if each.numel() == 0]
    infinite = [key for key, each in found.tensors.items() if not is_finite(each)]
    if empty:
        advice = "gather sharded weights before saving, and save again"
        found.findings.append(Finding("error", found.file, f"{len(empty)} tensors are empty: {some(empty)}", advice))
    if infinite:
        what = f"{len(infinite)} tensors hold NaN or infinite values: {some(infinite)}"
        advice = "go back to an earlier checkpoint and train with a lower learning rate"
        found.findings.append(Finding("error", found.file, what, advice))
    if not found.tensors:
        found.findings.append(Finding("error", found.file, "it holds no tensors", AGAIN))
    return {*empty, *infinite}


def _pairs_of_keys(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(key of A, key of B) of every pair of which at least one is there."""
    seen: dict[tuple[str, str], None] = {}
    for key in tensors:
        if match := _FACTOR.fullmatch(key):
            start, end = f"{match['stem']}.lora_{match['embedding'] or ''}", match["end"] or ""
            seen[f"{start}A{end}", f"{start}B{end}"] = None
    return iter(seen)


def _fit(A: Tensor, B: Tensor) -> bool:
    """Whether B·A can be: [R, I] and [O, R], per expert, or with several R in A for groups and fused parts."""
    if min(A.dim(), B.dim()) < 2 or not A.numel() or not B.numel():
        return False
    return len(A) % B.shape[1] == 0 or (A.dim() == B.dim() == 3 and A.shape[1] == B.shape[2])


def _pairs(found: Specimen, whole: Mapping[str, Tensor], alpha: float) -> list[FilePair]:
    if found.source.is_dir():
        return file_pairs(found.config or PeftConfig(rank=8, alpha=8.0), whole, found.sidecar)[0]
    keys = ((key, f"{key[:-1]}B") for key in whole if key.endswith("A"))
    return [
        FilePair(A.rpartition(".")[0], "linear", (A, B), whole[A], whole[B], Recipe(whole[B].shape[-1], alpha))
        for A, B in keys
    ]


def _own_pairs(found: Specimen, whole: Mapping[str, Tensor]) -> Iterator[FilePair]:
    sidecar = found.sidecar
    if sidecar is None:
        return
    shared = found.attempt(SIDECAR_NAME, AGAIN, lambda: shared_matrices(found.tensors, sidecar.shared))
    found.others = {key: each for key, each in found.others.items() if not key.startswith(f"{SHARED}.")}
    for path, record in sidecar.modules.items():
        yield from _plain_own_pairs(found, whole, path, record)
        special = found.attempt(found.file, AGAIN, lambda: _special(found, path, record, shared))  # noqa: B023
        yield from special or ()


def _special(found: Specimen, path: str, record: ModuleRecord, shared: SharedMatrices | None) -> list[FilePair]:
    """The pairs of deltas of other kinds; their tensors are then no others."""
    for part, each in record.parts.items():
        for key in local_keys(path, part, each, shared).values() if each.kind else ():
            found.others.pop(key, None)
    return list(special_pairs(path, record, found.tensors, shared))


def _plain_own_pairs(
    found: Specimen, whole: Mapping[str, Tensor], path: str, record: ModuleRecord
) -> Iterator[FilePair]:
    for part, each in record.parts.items():
        name = path if part == WHOLE else f"{path}.{part}"
        keys = f"{name}.lora_A", f"{name}.lora_B"
        if each.kind:
            continue
        if keys[0] in whole:
            yield FilePair(name, record.kind, keys, whole[keys[0]], whole[keys[1]], each.recipe, each.rows)
        elif not set(keys) <= found.tensors.keys():
            what = f"{name} has a low-rank update in {SIDECAR_NAME}, but none in the file"
            found.findings.append(Finding("error", found.file, what, AGAIN))
