"""`generate`: prompts answered by a model, given what training would put before an answer."""

from collections.abc import Sequence
from typing import Unpack, overload

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import SpecError
from loralab.evaluation.answers import answers
from loralab.generation.config import GenerationConfig, GenerationSettings
from loralab.tasks.encoding.chat import asked
from loralab.tasks.example import Example


@overload
def generate(  # type: ignore[overload-overlap]  # a text is a sequence of texts too
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: str,
    config: GenerationConfig | None = ...,
    *,
    chat: bool = ...,
    **settings: Unpack[GenerationSettings],
) -> str: ...


@overload
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    config: GenerationConfig | None = ...,
    *,
    chat: bool = ...,
    **settings: Unpack[GenerationSettings],
) -> list[str]: ...


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: str | Sequence[str],
    config: GenerationConfig | None = None,
    *,
    chat: bool = False,
    **settings: Unpack[GenerationSettings],
) -> str | list[str]:
    """What the model writes after a prompt, or after each of several, without the prompt and special tokens.

    `settings` are `max_new_tokens` (64), `beams`, `length_penalty`, `no_repeat_ngram`, `temperature` (0: the most
    probable token), `top_p`, `seed` and `batch_size`; what the model's files recommend does not count. With `chat` each
    prompt is a user's turn in the tokenizer's chat template, and the answer ends with its turn. Under `rows`, or with
    an adapter active, it is that adapter's.

    Raises SpecError for settings that cannot be, and where a prompt and the new tokens do not fit into the model's
    context; DataError for `chat` without a template.
    """
    if config is not None and settings:
        raise SpecError(f"generate was given a config and {', '.join(settings)}; give one of the two")
    texts = [prompts] if isinstance(prompts, str) else prompts
    examples = [asked(text, as_in_training=False) if chat else Example(text, "") for text in texts]
    said = answers(model, tokenizer, examples, _settings(settings) if config is None else config)
    return said[0] if isinstance(prompts, str) else said


def _settings(given: GenerationSettings) -> GenerationConfig:
    unknown = given.keys() - GenerationSettings.__annotations__
    if unknown:
        raise SpecError(
            f"generate has no setting {', '.join(sorted(unknown))}; there are: "
            f"{', '.join(GenerationSettings.__annotations__)}"
        )
    return GenerationConfig(**given)
