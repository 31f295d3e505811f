"""Which of the generation settings in a model's files count: every setting that transformers has, in one table.

A model's files hold what it is (which token its decoder starts with) beside what its authors recommend (a
temperature, a penalty). What is scored must not depend on a recommendation, so only the first kind is kept. It knows
nothing of texts and prompts.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum

from transformers import GenerationConfig as TransformersConfig
from transformers import PreTrainedModel

from loralab.errors import SpecError


class Rule(Enum):
    """Whose word counts for a setting."""

    MODEL = "kept as the model's files say"
    ASKED = "as asked, whatever the model's files say"
    OFF = "without effect, whatever the model's files say"


_TOKENS_OF_THE_MODEL = (
    "bos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",  # BART's <s>, the language of mBART, M2M-100 and NLLB
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",  # Marian's padding, which its decoder starts with and must never write; places of images
)

_ASKED = (
    *("max_new_tokens", "eos_token_id", "pad_token_id"),
    *("num_beams", "length_penalty", "early_stopping"),
    *("do_sample", "temperature", "top_p", "top_k"),
)

_LENGTHS_AND_STOPS = ("max_length", "min_length", "min_new_tokens", "max_time", "stop_strings")

_PENALTIES_AND_BIASES = (
    *("repetition_penalty", "encoder_repetition_penalty", "exponential_decay_length_penalty", "diversity_penalty"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "sequence_bias", "guidance_scale"),
    *("remove_invalid_values", "renormalize_logits", "watermarking_config", "token_healing"),
    *("constraints", "force_words_ids"),
)

_OTHER_SAMPLING = ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

_OTHER_SEARCH = (
    *("num_return_sequences", "num_beam_groups", "penalty_alpha", "dola_layers", "low_memory", "use_mtp"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
    *("speculation_type", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
)

_RUNNING = (
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size"),
    *("compile_config", "disable_compile", "continuous_batching_config"),
)

_RETURNED = (
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("_from_model_config", "transformers_version"),
)

_NO_EFFECT = (
    *_LENGTHS_AND_STOPS,
    *_PENALTIES_AND_BIASES,
    *_OTHER_SAMPLING,
    *_OTHER_SEARCH,
    *_RUNNING,
    *_RETURNED,
)

RULES: dict[str, Rule] = (
    dict.fromkeys(_TOKENS_OF_THE_MODEL, Rule.MODEL)
    | dict.fromkeys(_ASKED, Rule.ASKED)
    | dict.fromkeys(_NO_EFFECT, Rule.OFF)
)
"""Each field of transformers' GenerationConfig. A field of a later transformers that is in no row has no effect either;
a setting that transformers itself does not know is read by the model's own class alone, and is kept."""


def own_settings(model: PreTrainedModel) -> dict[str, object]:
    """What counts of the model's generation settings, whether they come from generation_config.json or config.json."""
    own = getattr(model, "generation_config", None)
    if own is None:
        return {}
    known = vars(TransformersConfig())  # type: ignore[no-untyped-call]
    return {
        name: value
        for name, value in vars(own).items()
        if value is not None and (RULES.get(name) is Rule.MODEL or (name not in known and not name.startswith("_")))
    }


def forced_first_token(model: PreTrainedModel) -> int | None:
    """The token that every text of the model begins with, whatever it is asked; None where it is free."""
    token = own_settings(model).get("forced_bos_token_id")
    return token if isinstance(token, int) else None


@contextmanager
def generating_with(model: PreTrainedModel, asked: Mapping[str, object]) -> Iterator[TransformersConfig]:
    """The settings to generate with: those `asked` for (in transformers' names) and what counts of the model's own.

    Meanwhile they are the model's, since `generate` fills whatever is None from there; afterwards it has its own again.
    Raises `SpecError` where the model's own ones exclude each other.
    """
    before = model.generation_config
    try:
        settings = TransformersConfig(**own_settings(model) | dict(asked))  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise SpecError(
            f"the model's generation settings cannot be used: {error}; correct its generation_config.json"
        ) from error
    model.generation_config = settings
    try:
        yield settings
    finally:
        model.generation_config = before
