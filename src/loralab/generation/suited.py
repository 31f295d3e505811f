"""Whether the engine writes what the model would: asked of its settings, then found out by trial.

What the engine does not know, it must not be given: every such call goes to transformers, and a debug line says why.
"""

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from loralab.core.adapter import adapters_on
from loralab.core.layer import names_of
from loralab.errors import SpecError
from loralab.generation.config import GenerationConfig
from loralab.generation.settings import own_settings
from loralab.serving.engine.trial import refuse_unsearchable, refuse_unservable

WITHOUT_EFFECT = {"bos_token_id", "decoder_start_token_id"}
"""Settings of a model that say what a text begins with, where nothing was asked."""
STRETCHED = ("dynamic", "longrope")
"""Rotary positions that change with the longest text of a call, beyond the length that the model was trained at."""

log = logging.getLogger(__name__)
_found: "WeakKeyDictionary[PreTrainedModel, dict[object, str | None]]" = WeakKeyDictionary()


def suits_engine(model: PreTrainedModel, prompts: Sequence[list[int]], config: GenerationConfig) -> bool:
    """Whether the engine is to answer these prompts."""
    reason = _by_settings(model, prompts, config) or _by_trial(model, config.beams > 1)
    if reason is not None:
        log.debug("decoding through transformers: %s", reason)
    return reason is None


def _by_settings(model: PreTrainedModel, prompts: Sequence[list[int]], config: GenerationConfig) -> str | None:
    """Why the engine is not to answer; None where nothing is against it."""
    if model.config.is_encoder_decoder:
        return "the model is an encoder-decoder"
    if not all(prompts):
        return "a prompt has no tokens"
    own = own_settings(model).keys() - WITHOUT_EFFECT
    if own:
        return f"the model's generation settings have {', '.join(sorted(own))}"
    if adapters_on(model).routing.rows is not None:
        return "rows() says whose adapter each row of a batch has"
    longest = max(map(len, prompts)) + config.max_new_tokens
    if longest > _unstretched(model):
        return f"positions beyond {_unstretched(model)} are stretched by the longest text of a call"
    return None


def _unstretched(model: PreTrainedModel) -> float:
    """Tokens up to which a position is the same in every call."""
    config = model.config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [ropes, *(each for each in ropes.values() if isinstance(each, dict))]
    if not any(str(each.get("rope_type", each.get("type"))) in STRETCHED for each in kinds):
        return float("inf")
    lengths = [each.get("original_max_position_embeddings") for each in (*kinds, vars(config))]
    lengths.append(getattr(config, "max_position_embeddings", None))
    return float(min(each for each in lengths if isinstance(each, int)))


def _by_trial(model: PreTrainedModel, beams: bool) -> str | None:
    """The same, by trying; once for a model under adapters of one kind."""
    found = _found.setdefault(model, {})
    adapters = adapters_on(model)
    speaking = [adapters.adapter(name) for name in names_of(adapters.routing.active)]
    kinds = frozenset(type(update) for adapter in speaking for update in adapter.updates.values())
    key = (beams, kinds, model.config._attn_implementation, model.dtype)
    if key not in found:
        try:
            (refuse_unsearchable if beams else refuse_unservable)(model)
            found[key] = None
        except SpecError as error:
            found[key] = str(error)
    return found[key]
