"""Which of transformers' model types hear or make sound: their tokens are not text, though some can be loaded as if.

It goes by transformers' own tables of what is a model of speech, and by what a model says that it takes in. A model
that takes in images, too, is a language model with senses, and is one here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loralab.extras import deferred

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from transformers.models.auto import feature_extraction_auto, modeling_auto
else:
    modeling_auto = deferred("transformers.models.auto.modeling_auto")
    feature_extraction_auto = deferred("transformers.models.auto.feature_extraction_auto")

WORDS = ("SPEECH", "CTC", "AUDIO", "RNNT", "TDT", "SPECTROGRAM", "WAVEFORM")
"""What the names of transformers' tables of such models hold."""


def is_of_sound(config: "PreTrainedConfig") -> bool:
    """Whether the model that a configuration describes hears or makes sound, and does not see."""
    senses = _senses(config)
    return "image" not in senses and ("audio" in senses or config.model_type in _types_of_sound())


def _types_of_sound() -> set[str]:
    tables: list[Mapping[str, Any]] = [
        getattr(modeling_auto, name)
        for name in dir(modeling_auto)
        if name.startswith("MODEL_FOR_") and name.endswith("_NAMES") and any(word in name for word in WORDS)
    ]
    tables.append(getattr(feature_extraction_auto, "FEATURE_EXTRACTOR_MAPPING_NAMES", {}))
    return {model_type for table in tables for model_type in table}


def _senses(config: "PreTrainedConfig") -> set[str]:
    """What the model's class says that it takes in: text, image, audio, …; nothing where no class is known."""
    mapped = modeling_auto.MODEL_MAPPING.get(type(config), None)
    classes = mapped if isinstance(mapped, tuple | list) else [mapped]
    said = (getattr(each, "input_modalities", ()) for each in classes)
    return {sense for each in said for sense in ([each] if isinstance(each, str) else each)}
