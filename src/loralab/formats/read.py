"""The one reader of adapters: what lies in a folder, ours or PEFT's, or in a checkpoint of loralib's.

Four layouts differ in what their configuration says, how their tensors are taken apart, and how they are put on a
model: a row each at the end of this file.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from loralab.core.plan import Plan
from loralab.errors import AdapterFileError, NotFoundError, SpecError
from loralab.files.commit import settle
from loralab.files.names import (
    CONFIG_NAME,
    OLD_TENSORS_NAME,
    OWN_TYPE,
    PEFT_FILES,
    PLAIN_NAME,
    SIDECAR_NAME,
    TENSORS_NAME,
)
from loralab.files.tensors import read_tensors
from loralab.files.whole import read_json
from loralab.formats.checkpoints import refuse_unfinished
from loralab.formats.loralib import ALPHA_KEY, from_checkpoint, loralib_spec
from loralab.formats.own import from_own, own_reasons
from loralab.formats.peft.config import PeftConfig, PeftVeraConfig, parse_config
from loralab.formats.peft.dialects import as_plain_lora
from loralab.formats.peft.keys import plain_names
from loralab.formats.peft.reading import from_peft
from loralab.formats.peft.vera import VERA_TYPE, parse_vera, vera_from_peft
from loralab.formats.sidecar import read_sidecar
from loralab.formats.stored import AGAIN, UNEXPECTED, FileLayout, Problems, StoredAdapter
from loralab.formats.updates import part_checkpoint, part_own, part_peft, part_vera
from loralab.methods.lora import LoRA
from loralab.methods.table import method_name
from loralab.methods.vera import VeRA


def read_adapter(path: str | Path, alpha: float | None = None) -> StoredAdapter:
    """Read an adapter folder, ours or PEFT's, or a loralib checkpoint, which does not record its `alpha`.

    Raises NotFoundError where there is no adapter at all, SpecError for an `alpha` that a folder itself says.
    """
    source = Path(path)
    if not source.exists():
        raise NotFoundError(f"{source}: there is no such folder or file; name an adapter's or a checkpoint")
    settle(source)
    refuse_unfinished(source)
    if not source.is_dir():
        return _checkpoint(source, alpha)
    if alpha is not None:
        raise SpecError(f"alpha {alpha:g} was given for {source}, whose {CONFIG_NAME} says its own; leave it out")
    if not any((source / name).exists() for name in PEFT_FILES):
        _config_content(source)
    return _folder(source)


def read_plain(path: str | Path, alpha: float | None = None) -> StoredAdapter:
    """Read an adapter; of one that only loralab can read, the plain LoRA that lies beside it, if there is one."""
    stored = read_adapter(path, alpha)
    return read_adapter(stored.source / PLAIN_NAME) if stored.has_plain else stored


def _config_content(folder: Path) -> dict[str, Any]:
    """The content of a folder's adapter_config.json; NotFoundError says where adapters are instead."""
    if not (folder / CONFIG_NAME).exists():
        inside = sorted(each.parent.name for each in folder.glob(f"[!.]*/{CONFIG_NAME}"))
        hint = f"; there are adapters in its folders {', '.join(inside)}" if inside else ""
        raise NotFoundError(f"{folder} is not an adapter: there is no {CONFIG_NAME} in it{hint}")
    return read_json(folder / CONFIG_NAME)


def tensors_path(folder: Path) -> Path:
    """The file with the tensors of a PEFT folder; NotFoundError if it holds no such file."""
    for name in (TENSORS_NAME, OLD_TENSORS_NAME):
        if (folder / name).exists():
            return folder / name
    raise NotFoundError(f"{folder} is not an adapter: there is no {TENSORS_NAME} in it")


def _folder(source: Path) -> StoredAdapter:
    problems = Problems()
    content = problems.attempt(CONFIG_NAME, AGAIN, lambda: _config_content(source)) or {}
    file = problems.attempt(TENSORS_NAME, AGAIN, lambda: read_tensors(tensors_path(source)))
    sidecar = problems.attempt(SIDECAR_NAME, f"{AGAIN}, or remove it", lambda: read_sidecar(source))
    if sidecar is not None and file is not None:
        problems.attempt(SIDECAR_NAME, AGAIN, lambda: sidecar.check_belongs(file.path))
    layout = next((each for each in (OWN, VERA) if each.peft_type == content.get("peft_type")), PEFT)
    tensors = {} if file is None else file.tensors
    stored = StoredAdapter(source, layout, content, None, None, sidecar, file, tensors, tensors)
    return replace(layout.understand(stored, problems), reading=tuple(problems.seen))


def _checkpoint(source: Path, alpha: float | None) -> StoredAdapter:
    problems = Problems()
    file = problems.attempt(source.name, AGAIN, lambda: read_tensors(source))
    tensors = {} if file is None else file.tensors
    if file is not None and alpha is None and ALPHA_KEY in file.metadata:
        alpha = problems.attempt(source.name, "give it, as --alpha 16", lambda: float(file.metadata[ALPHA_KEY]))
    named = {key.removeprefix("module."): each for key, each in tensors.items()}
    return StoredAdapter(
        source, LORALIB, file=file, tensors=tensors, named=named, alpha=alpha, reading=tuple(problems.seen)
    )


# -- PEFT's LoRA


def _understand_peft(stored: StoredAdapter, problems: Problems) -> StoredAdapter:
    plain = problems.attempt(CONFIG_NAME, AGAIN, lambda: as_plain_lora(stored.content, stored.tensors))
    content, tensors = (stored.content, stored.tensors) if plain is None else (plain.content, plain.tensors)
    config = None
    if content and plain is not None:
        advice = "do what is said there, or train again without"
        place = str(stored.source / CONFIG_NAME)
        config = problems.attempt(CONFIG_NAME, advice, lambda: parse_config(content, place))
    return replace(
        stored,
        content=content,
        config=config or _scales_alone(content),
        tensors=tensors,
        named=_named(tensors, problems),
        said=() if plain is None else plain.notes,
    )


_DECIDE_SCALES = (
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "target_parameters"),
)


def _scales_alone(content: Mapping[str, Any]) -> PeftConfig | None:
    """What a configuration that cannot be honoured says of ranks and scales; None where it does not say that either."""
    kept = {key: content[key] for key in _DECIDE_SCALES if key in content}
    try:
        return parse_config({**kept, "peft_type": "LORA"}, CONFIG_NAME)
    except (AdapterFileError, *UNEXPECTED):
        return None


def _named(tensors: Mapping[str, Tensor], problems: Problems) -> Mapping[str, Tensor]:
    named = problems.attempt(TENSORS_NAME, AGAIN, lambda: plain_names(tensors)[0])
    return tensors if named is None else named


def _place_peft(stored: StoredAdapter, model: nn.Module) -> Plan:
    assert stored.config is not None
    updates, notes = from_peft(model, stored.config, stored.tensors, stored.sidecar)
    return Plan(updates, (*stored.said, *notes))


def _peft_spec(stored: StoredAdapter, plan: Plan) -> object:
    config = stored.config
    assert config is not None
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
        raise AdapterFileError(f"invalid {CONFIG_NAME}: {problem}") from problem


def _method(stored: StoredAdapter) -> str:
    if stored.sidecar is not None:
        return method_name(stored.sidecar.method)
    names = {"rank_stabilized": "rank_stabilized", "magnitude": "magnitude", "invocation_tokens": "invocation"}
    return method_name({"type": "LoRA"} | {name: getattr(stored.config, field, None) for name, field in names.items()})


# -- PEFT's VeRA


def _understand_vera(stored: StoredAdapter, problems: Problems) -> StoredAdapter:
    place = str(stored.source / CONFIG_NAME)
    vera = problems.attempt(CONFIG_NAME, AGAIN, lambda: parse_vera(stored.content, place))
    return replace(stored, vera=vera, named=_named(stored.tensors, problems))


def _place_vera(stored: StoredAdapter, model: nn.Module) -> Plan:
    assert stored.vera is not None
    updates, shared, notes = vera_from_peft(model, stored.vera, stored.tensors, stored.sidecar)
    return Plan(updates, tuple(notes), shared=shared)


def vera_spec(config: PeftVeraConfig) -> VeRA:
    """The specification that comes nearest to a configuration of PEFT's."""
    common = config.common
    targets = [common.targets] if isinstance(common.targets, str) else list(common.targets or ())
    try:
        return VeRA(
            rank=common.rank,
            dropout=common.dropout,
            d_initial=config.d_initial,
            projection_seed=config.projection_seed,
            targets=targets,
            layers=common.layers,
            bias=common.bias,
            modules_to_save=common.modules_to_save,
        )
    except SpecError as problem:
        raise AdapterFileError(f"invalid {CONFIG_NAME}: {problem}") from problem


def _vera_spec(stored: StoredAdapter, plan: Plan) -> object:
    assert stored.vera is not None
    return vera_spec(stored.vera)


# -- loralab's own


def _understand_own(stored: StoredAdapter, problems: Problems) -> StoredAdapter:
    if not (stored.source / SIDECAR_NAME).exists():
        what = f"{stored.source} is an adapter that only loralab can read, but its {SIDECAR_NAME} is missing"
        problems.add(SIDECAR_NAME, what, AGAIN)
    reasons = problems.attempt(CONFIG_NAME, AGAIN, lambda: own_reasons(stored.content))
    return replace(stored, why_not_peft=tuple(reasons or ()))


def _place_own(stored: StoredAdapter, model: nn.Module) -> Plan:
    assert stored.sidecar is not None
    updates, shared = from_own(model, stored.tensors, stored.sidecar.modules, stored.sidecar.shared)
    return Plan(updates, shared=shared)


PEFT = FileLayout("LORA", _understand_peft, part_peft, _place_peft, _peft_spec, _method)
VERA = FileLayout(VERA_TYPE, _understand_vera, part_vera, _place_vera, _vera_spec, lambda stored: "vera")
OWN = FileLayout(OWN_TYPE, _understand_own, part_own, _place_own, lambda stored, plan: None, _method)
LORALIB = FileLayout(
    None,
    lambda stored, _: stored,
    part_checkpoint,
    from_checkpoint,
    loralib_spec,
    lambda stored: "lora",
)
