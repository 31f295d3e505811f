"""A model without weights, built from its configuration on torch's meta device: every shape, not one number."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from loralab.errors import NotFoundError
from loralab.models.families.table import FAMILY_BY_TYPE
from loralab.models.load import config_of_type, model_from_config, read_config
from loralab.planning.presets import PRESETS

KIND_OF_ARCHITECTURE = {
    "decoder": "causal-lm",
    "encoder": "sequence-classification",
    "encoder-decoder": "seq2seq-lm",
    "vision": "image-classification",
    "dual": "image-classification",
}
LABELS = 2
"""Classes of an encoder's head unless told otherwise."""


def configuration(name: str) -> PreTrainedConfig:
    """The configuration of a preset, an embedded model, a local folder or a Hub id.

    Raises `NotFoundError`, which names the presets, or `ModelLoadError`.
    """
    if name in PRESETS:
        return config_of_type(PRESETS[name].model_type, PRESETS[name].values)
    try:
        return read_config(name)
    except NotFoundError as problem:
        raise NotFoundError(f"{problem}; or plan with a preset: {', '.join(PRESETS)}") from problem


def kind_of(config: PreTrainedConfig, labels: int | None) -> str:
    """As what a model is planned: encoders as classifiers, others too if there are labels; else a language model."""
    family = FAMILY_BY_TYPE.get(config.model_type)
    if family is None:
        kind = "seq2seq-lm" if config.is_encoder_decoder else "causal-lm"
    else:
        kind = KIND_OF_ARCHITECTURE[family.architecture]
    return "sequence-classification" if labels is not None and kind == "causal-lm" else kind


def blueprint(name: str, labels: int | None = None) -> PreTrainedModel:
    """The model of this name on the meta device. Raises what `configuration` does, and `ModelLoadError`."""
    config = configuration(name)
    kind = kind_of(config, labels)
    if kind.endswith("classification"):
        config.num_labels = labels or LABELS
    with torch.device("meta"):
        return model_from_config(name, config, kind)
