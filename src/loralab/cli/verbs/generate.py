"""`loralab generate`: prompts completed by a model, with or without an adapter."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loralab.cli.flags import AdaptedModel
from loralab.cli.opening import Wanted, load_adapted, say, wanted_by
from loralab.cli.verb import Answer, Verb
from loralab.errors import DataError
from loralab.generation.config import GenerationConfig
from loralab.tasks.outputs import text_lines
from loralab.tasks.readers.unpacked import MARK, decode_utf8, lone_half

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(AdaptedModel, GenerationConfig):
    """The flags of `loralab generate`."""

    prompt: str | None = None
    """The text to complete. Without it, every line of stdin is a prompt."""

    chat: bool | None = None
    """Put each prompt as a user's turn through the chat template, and stop where a turn ends. Without it this is done
    for an adapter whose run trained it on messages; --no-chat completes the prompts as they are."""


def run(config: GenerateConfig) -> Answer:
    """Read the prompts, then load the model and complete them all."""
    prompts = [_whole_text(config.prompt)] if config.prompt is not None else prompts_from_stdin()
    wanted = wanted_by(config.adapter, config.labels)

    from loralab.evaluation.answers import answers
    from loralab.tasks.encoding.chat import asked
    from loralab.tasks.example import Example

    loaded = load_adapted(config, wanted)
    chat = _as_chat(config, wanted, loaded.tokenizer)
    trained = wanted.conversations
    examples = [asked(prompt, as_in_training=trained) if chat else Example(prompt, "") for prompt in prompts]
    return {"completions": answers(loaded.model, loaded.tokenizer, examples, config)}


def _as_chat(config: GenerateConfig, wanted: Wanted, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether prompts are turns of a conversation; said where nobody asked for it, or might have meant it."""
    if config.chat is not None:
        return config.chat
    if wanted.conversations:
        say(["the adapter was trained on messages: a prompt is a user's turn in the chat template, unless --no-chat"])
    elif tokenizer.chat_template is not None:
        say(["the prompts are completed as they are; --chat puts them through the chat template"])
    return wanted.conversations


def prompts_from_stdin() -> list[str]:
    """The lines of stdin, which are UTF-8 whatever the locale says.

    Raises DataError for no lines, an empty line, which could not be completed, and bytes that are not UTF-8.
    """
    if sys.stdin.isatty():
        raise DataError("no prompt was given: write --prompt TEXT, or pipe in one prompt a line")
    raw = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode("utf-8", "surrogatepass")
    prompts = text_lines(decode_utf8("stdin", raw.removeprefix(MARK)))
    empty = [str(number) for number, prompt in enumerate(prompts, start=1) if not prompt.strip()]
    if empty or not prompts:
        where = f"line {', '.join(empty)} is empty" if empty else "stdin is empty"
        raise DataError(f"a prompt was expected on every line of stdin, but {where}; or give --prompt TEXT")
    return prompts


def _whole_text(prompt: str) -> str:
    """The prompt as it was given, if its bytes are UTF-8: others come in as halves of characters."""
    if lone_half(prompt):
        raise DataError(f"--prompt {prompt!r}: it holds bytes that are not UTF-8; correct them")
    return prompt


def show(answer: Answer) -> None:
    """One completion as it is; several one a line, their own line breaks written as \\n."""
    completions: list[str] = answer["completions"]
    if len(completions) == 1:
        print(completions[0])
        return
    for completion in completions:
        print(completion.replace("\n", "\\n"))


VERB = Verb(
    GenerateConfig,
    run,
    show,
    example='loralab generate --model smollm2-135m --prompt "The capital of France is"',
)
