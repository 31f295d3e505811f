"""A pretrained model and its tokenizer or image processor, loaded so that nothing is silently random, missing or left
over.

The only file that uses transformers' Auto classes. It knows nothing of adapters and tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from loralab.errors import ModelLoadError, NotFoundError, SpecError, first_line
from loralab.extras import transformers
from loralab.machine import choose_device
from loralab.models.attention import check_attention, set_attention
from loralab.models.audio import is_of_sound
from loralab.models.families.table import FAMILY_BY_TYPE
from loralab.models.fit import judge_fit
from loralab.models.locate import choices, is_linearized, locate, stand_in
from loralab.models.outputs import output_names
from loralab.models.precision import choose_dtype
from loralab.models.processor import check_processor, default_processor, has_processor
from loralab.models.quiet import quiet_transformers
from loralab.models.surgery.affine import REMAINING, put_maps

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

AUTO_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
}
"""The kinds of model, and who of transformers knows the class for each architecture."""

HEADED = ("sequence-classification", "image-classification")
"""Kinds whose head may be fresh: a task of one's own needs one. A language model's never may."""

GENERATION = "generation"
"""A language model of either kind, causal or encoder-decoder, as the checkpoint says."""

_TRANSFORMERS_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode on its device, with what its user should know about it."""

    model: "PreTrainedModel"
    processor: "PreTrainedTokenizerBase | BaseImageProcessor"
    """What turns examples into what the model takes: a tokenizer, or for images a maker of pixels."""
    name: str
    """As asked for: an embedded name, a folder, or a Hub id."""
    dtype: torch.dtype
    notes: tuple[str, ...]
    """Sentences for the log: the precision and why, what was initialised, dropped or set."""
    fresh: tuple[str, ...]
    """Paths of the modules whose weights were not in the checkpoint, e.g. ("classifier",): to be trained in
    full.
    """
    own_tokenizer: bool = False
    """Whether the tokenizer, or its chat template, is another than the model's own: an adapter's."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The processor of a model that reads text. Raises `SpecError` for one that looks at images."""
        if isinstance(self.processor, transformers.PreTrainedTokenizerBase):
            return self.processor
        raise SpecError(f"model {self.name!r} looks at images and has no tokenizer; text is not for it")


def load_model(
    name: str,
    *,
    kind: str = "causal-lm",
    labels: Sequence[str] | None = None,
    regression: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    as_stored: bool = False,
    attention: str | None = None,
) -> LoadedModel:
    """The model `name` as `kind`: a key of `AUTO_CLASSES`, or `GENERATION`.

    A classifier has one output per label, or one in all for `regression`; where the checkpoint has no such
    head, a fresh one is initialised from `seed`, in the model's dtype; the caller's random state is left
    alone. `as_stored` leaves the weights as they are mapped from the file, in its precision, for a caller who rounds
    them to `dtype` piece by piece. `attention` is an implementation as transformers names it; without it transformers
    chooses. Raises `NotFoundError`, `ModelLoadError`, or `SpecError` for a kind, dtype or device
    that is none.
    """
    if kind not in (*AUTO_CLASSES, GENERATION):
        raise SpecError(f"model kind {kind!r} is not known; choose {', '.join((*AUTO_CLASSES, GENERATION))}")
    if is_linearized(name):
        folder = Path(name).expanduser()
        rest = load_model(
            str(folder / REMAINING),
            kind=kind, labels=labels, regression=regression, dtype=dtype, device=device, seed=seed,
            as_stored=as_stored, attention=attention,
        )  # fmt: skip
        note = put_maps(rest.model, folder)
        rest.model.name_or_path = rest.model.config.name_or_path = name
        return replace(rest, name=name, notes=(*rest.notes, note))
    check_attention(attention)
    place = choose_device(device)
    precision, reason = choose_dtype(dtype, place)
    source = locate(name)
    with quiet_transformers():
        config = _read_config(name, source)
        if kind == GENERATION:
            kind = "seq2seq-lm" if config.is_encoder_decoder else "causal-lm"
        _check_kind(name, config, kind)
        notes = [reason, *stand_in(name, source), *_set_labels(config, kind, labels, regression)]
        processor, more = _read_processor(name, source, kind, config)
        read = _read_as_stored if as_stored else _read_model
        model, report = read(name, source, _auto_class(kind), config, precision, seed)
    if attention is not None:
        set_attention(model, attention)
    fresh, remarks = judge_fit(name, model, kind in HEADED, report)
    model.to(place)  # type: ignore[arg-type]  # transformers wraps `to` without its type
    _check_processor(name, model, processor)
    model.name_or_path = model.config.name_or_path = name  # what is saved names the model, not this machine's cache
    return LoadedModel(
        model=model,
        processor=processor,
        name=name,
        dtype=precision,
        notes=(*notes, *more, *remarks),
        fresh=fresh,
    )


def read_config(name: str) -> "PreTrainedConfig":
    """The configuration of the model `name`; of a local folder config.json suffices. Raises what `load_model` does."""
    folder = Path(name).expanduser()
    source = str(folder) if (folder / "config.json").is_file() else locate(name)
    with quiet_transformers():
        return _read_config(name, source)


def config_of_type(model_type: str, values: Mapping[str, object]) -> "PreTrainedConfig":
    """A configuration of one of transformers' model types, with its defaults but for `values`."""
    config: PreTrainedConfig = transformers.AutoConfig.for_model(model_type, **values)
    return config


def model_from_config(name: str, config: "PreTrainedConfig", kind: str) -> "PreTrainedModel":
    """The model that `config` describes, as `kind` (a key of `AUTO_CLASSES`), with fresh weights: none at all within
    `torch.device("meta")`. Raises `ModelLoadError` if it cannot be of that kind.
    """
    _check_kind(name, config, kind)
    try:
        with quiet_transformers():
            model: PreTrainedModel = _auto_class(kind).from_config(config)
    except _TRANSFORMERS_ERRORS as error:
        raise ModelLoadError(f"model {name!r} cannot be built from its config: {first_line(error)}") from error
    return model


def _auto_class(kind: str) -> Any:
    return getattr(transformers, AUTO_CLASSES[kind])


def _read_config(name: str, source: str) -> "PreTrainedConfig":
    """The config, if its weights are plain numbers."""
    try:
        config: PreTrainedConfig = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and not Path(source).is_dir():
            raise NotFoundError(
                f"model {name!r}: there is no such folder here, and it could not be had from the Hub "
                f"({first_line(error)}); {choices()}; without a network (or with HF_HUB_OFFLINE=1) only what was "
                "downloaded before can be used"
            ) from error
        raise ModelLoadError(f"model {name!r}: its config.json cannot be used: {first_line(error)}") from error
    if getattr(config, "quantization_config", None):
        raise ModelLoadError(f"model {name!r} is quantised; give the checkpoint with its full weights")
    return config


def _check_kind(name: str, config: "PreTrainedConfig", kind: str) -> None:
    if is_of_sound(config):
        raise ModelLoadError(
            f"model {name!r} (type {config.model_type!r}) hears or makes sound, which is not supported as {kind}: text "
            "is not what it works on; load it with transformers, and adapt it with loralab.attach"
        )
    fitting = [each for each in AUTO_CLASSES if type(config) in _auto_class(each)._model_mapping]
    family = FAMILY_BY_TYPE.get(config.model_type)
    if family is not None and family.architecture == "encoder" and not getattr(config, "is_decoder", False):
        fitting = [each for each in fitting if each != "causal-lm"]
    if kind not in fitting:
        can = f"it can be loaded as {', '.join(fitting)}" if fitting else "no kind that is supported"
        raise ModelLoadError(f"model {name!r} (type {config.model_type!r}) cannot be loaded as {kind}; {can}")


def _set_labels(config: "PreTrainedConfig", kind: str, labels: Sequence[str] | None, regression: bool) -> list[str]:
    """Give the config the task's outputs. What it says about the labels' order is returned."""
    if kind not in HEADED:
        if labels or regression:
            raise SpecError(f"labels and regression are for {', '.join(HEADED)}, not for {kind}")
        return []
    if regression:
        config.num_labels, config.problem_type = 1, "regression"
        return []
    config.problem_type = "single_label_classification"
    if labels is None:
        return [f"no labels were given: the checkpoint's {config.num_labels} outputs are kept"]
    own = list(output_names(config) or ())
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    unnamed = all(label.startswith("LABEL_") for label in own)
    if unnamed or len(own) != len(labels) or own == list(labels):
        return []
    return [f"the checkpoint calls its labels {', '.join(own)}; here they are {', '.join(labels)}, in that order"]


def _read_processor(
    name: str, source: str, kind: str, config: "PreTrainedConfig"
) -> "tuple[PreTrainedTokenizerBase | BaseImageProcessor, list[str]]":
    """The tokenizer or image processor, and what was set because the checkpoint does not say it."""
    if kind != "image-classification":
        tokenizer = _read_tokenizer(name, source)
        return tokenizer, _set_padding(tokenizer, config)
    if not has_processor(source):
        return default_processor(name, config)
    try:
        # One backend for all machines: with torchvision installed, resized pixels would differ a little.
        processor: BaseImageProcessor = transformers.AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            source, backend="pil"
        )
    except _TRANSFORMERS_ERRORS as error:
        raise ModelLoadError(f"model {name!r}: its image processor cannot be loaded: {first_line(error)}") from error
    return processor, []


def load_tokenizer(folder: str, config: "PreTrainedConfig") -> "tuple[PreTrainedTokenizerBase, list[str]]":
    """The tokenizer that lies in a folder for a model with this config, and what was set because the files do not say
    it. Raises `ModelLoadError`.
    """
    with quiet_transformers():
        tokenizer = _read_tokenizer(folder, folder, config)
    return tokenizer, _set_padding(tokenizer, config)


def _read_tokenizer(name: str, source: str, config: "PreTrainedConfig | None" = None) -> "PreTrainedTokenizerBase":
    try:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(source, config=config)
    except _TRANSFORMERS_ERRORS as error:
        raise ModelLoadError(f"model {name!r}: its tokenizer cannot be loaded: {first_line(error)}") from error
    return tokenizer


def _set_padding(tokenizer: "PreTrainedTokenizerBase", config: "PreTrainedConfig") -> list[str]:
    """A padding token for those that have none (GPT-2, Llama): the end of text, never looked at where it
    pads.
    """
    notes = []
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelLoadError("the tokenizer has neither a padding nor an end-of-text token; give it one of them")
        tokenizer.pad_token = tokenizer.eos_token
        notes = [f"the tokenizer has no padding token: {tokenizer.eos_token} pads"]
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    return notes


def _read_as_stored(
    name: str, source: str, auto_class: Any, config: "PreTrainedConfig", dtype: torch.dtype, seed: int
) -> "tuple[PreTrainedModel, dict[str, Any]]":
    """As `_read_model`, in the precision of the file, unless rounding it to `dtype` later would come to another model:
    one with fresh parts, which are drawn in it, or with parts that stay in float32.
    """
    model, report = _read_model(name, source, auto_class, config, "auto", seed)
    wide = any(getattr(model, f"_keep_in_fp32_modules{kind}", None) for kind in ("", "_strict"))
    if model.dtype != dtype and (wide or report["missing_keys"] or report["mismatched_keys"]):
        return _read_model(name, source, auto_class, config, dtype, seed)
    return model, report


def _read_model(
    name: str, source: str, auto_class: Any, config: "PreTrainedConfig", dtype: torch.dtype | str, seed: int
) -> "tuple[PreTrainedModel, dict[str, Any]]":
    """The model on the CPU, and transformers' report of which keys did not meet."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, report = auto_class.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except _TRANSFORMERS_ERRORS as error:
        raise ModelLoadError(
            f"model {name!r} cannot be loaded: {first_line(error)}; the file may be cut short or hold another model"
        ) from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelLoadError(
            f"model {name!r} has an adapter (adapter_config.json) beside its own weights, and transformers has put it "
            "on the model; give a model without one, and name the adapter as the adapter"
        )
    return model, report


def _check_processor(
    name: str, model: "PreTrainedModel", processor: "PreTrainedTokenizerBase | BaseImageProcessor"
) -> None:
    if isinstance(processor, transformers.PreTrainedTokenizerBase):
        _check_vocabulary(name, model, processor)
    else:
        check_processor(name, model, processor)


def _check_vocabulary(name: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    rows = int(model.get_input_embeddings().get_parameter("weight").shape[0])
    if len(tokenizer) > rows:
        raise ModelLoadError(
            f"model {name!r}: the tokenizer has {len(tokenizer)} tokens, the model embeds {rows}; "
            "they are not of one model"
        )
