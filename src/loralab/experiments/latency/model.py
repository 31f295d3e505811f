"""The model whose forward pass is timed, and the inputs it is given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.errors import SpecError
from loralab.experiments.latency.config import InputSize, LatencyConfig
from loralab.machine import choose_device
from loralab.models.context import context_length
from loralab.models.load import load_model, model_from_config
from loralab.models.precision import choose_dtype, use_fast_float32
from loralab.planning.blueprint import blueprint, configuration, kind_of
from loralab.planning.presets import PRESETS

KINDS = ("causal-lm", "sequence-classification")
"""Models that take tokens, and nothing but tokens."""


@dataclass(frozen=True)
class TimedModel:
    """A model in evaluation mode, with what its user should know about it."""

    model: PreTrainedModel
    random: bool
    """Whether its weights are."""
    dtype: torch.dtype
    notes: tuple[str, ...]


def timed_model(config: LatencyConfig) -> TimedModel:
    """Load the model, or build it with random weights, without a cache of keys and values.

    Raises SpecError for a model that takes no tokens or is an encoder-decoder, for settings that do not fit its
    context or this machine's memory, and what `load_model` raises.
    """
    kind = _kind(config.model)
    if kind not in KINDS:
        raise SpecError(
            f"model {config.model!r} is loaded as {kind}: its latency cannot be measured; choose a decoder or "
            "an encoder of text"
        )
    _check_size(config, kind)
    random = config.random or config.model in PRESETS
    timed = _random(config, kind) if random else _pretrained(config, kind)
    timed.model.train(False).requires_grad_(False)
    timed.model.config.use_cache = False
    return timed


def forward_pass(model: PreTrainedModel, setting: InputSize) -> Callable[[], object]:
    """What runs `model` once on random tokens [batch, sequence], the same in every call, without autograd."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.get_input_embeddings().get_parameter("weight").shape[0])
    ids = torch.randint(vocabulary, (setting.batch, setting.sequence), generator=generator)
    return partial(_run, model, ids.to(model.device))


def _run(model: PreTrainedModel, ids: Tensor) -> object:
    with torch.inference_mode():
        return model(input_ids=ids)


def _kind(name: str) -> str:
    config = configuration(name)
    return "seq2seq-lm" if config.is_encoder_decoder else kind_of(config, None)


def _check_size(config: LatencyConfig, kind: str) -> None:
    """From the model without weights: does every setting fit its context, and all of it the memory?"""
    empty = blueprint(config.model)
    _check_context(config.model, context_length(empty), config.all_settings())
    bytes_each = choose_dtype(config.dtype, choose_device(config.device))[0].itemsize
    logits = max(setting.tokens for setting in config.all_settings()) * _vocabulary(empty, kind)
    # Random weights are made in float32 and then converted.
    needed = empty.num_parameters() * max(bytes_each, 4 if config.random or config.model in PRESETS else 0)
    needed += logits * bytes_each
    free = psutil.virtual_memory().available
    if choose_device(config.device).type == "cpu" and needed > free:
        raise SpecError(
            f"model {config.model!r} needs {needed / 1e9:.1f} GB for its weights and the logits of the largest "
            f"setting, and {free / 1e9:.1f} GB are free; name a smaller model or smaller settings"
        )


def _check_context(name: str, context: int | None, settings: Iterable[InputSize]) -> None:
    too_long = [str(setting) for setting in settings if context is not None and setting.sequence > context]
    if too_long:
        raise SpecError(
            f"{', '.join(too_long)} asks for longer sequences than model {name!r} can look at, which is {context} "
            "tokens; give shorter ones"
        )


def _vocabulary(model: PreTrainedModel, kind: str) -> int:
    return int(model.config.get_text_config().vocab_size) if kind == "causal-lm" else 0


def _pretrained(config: LatencyConfig, kind: str) -> TimedModel:
    loaded = load_model(config.model, kind=kind, dtype=config.dtype, device=config.device)
    return TimedModel(loaded.model, False, loaded.dtype, (*loaded.notes, *_products(loaded.model, loaded.dtype)))


def _random(config: LatencyConfig, kind: str) -> TimedModel:
    """Random weights from a fixed seed; the caller's random state is left alone."""
    device = choose_device(config.device)
    dtype, reason = choose_dtype(config.dtype, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_from_config(config.model, configuration(config.model), kind)
    model.to(device=device, dtype=dtype)  # type: ignore[call-arg]  # transformers wraps `to` without its type
    note = "the weights are random: latency does not depend on their values"
    return TimedModel(model, True, dtype, (reason, note, *_products(model, dtype)))


def _products(model: PreTrainedModel, dtype: torch.dtype) -> list[str]:
    """As every verb computes: float32 on a CPU by the faster of two libraries."""
    return [use_fast_float32()] if model.device.type == "cpu" and dtype == torch.float32 else []
