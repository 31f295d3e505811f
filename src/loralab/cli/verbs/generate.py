"""`loralab generate`: prompts completed by a model, with or without an adapter."""

import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from loralab.cli.flags import AdaptedModel
from loralab.cli.opening import Wanted, load_adapted, say
from loralab.cli.verb import Answer, Verb
from loralab.cli.writers import wanted_writer
from loralab.errors import DataError
from loralab.formats.checkpoints import run_and_word
from loralab.generation.config import GenerationConfig
from loralab.tasks.outputs import text_lines
from loralab.tasks.readers.unpacked import MARK, decode_utf8, lone_half

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(AdaptedModel, GenerationConfig):
    """The flags of `loralab generate`."""

    prompt: str | None = None
    """The text to complete. Without it, every line of stdin is a prompt; in a terminal a conversation begins."""

    chat: bool | None = None
    """Put each prompt as a user's turn through the chat template, and stop where a turn ends. Without it this is done
    for an adapter whose run trained it on messages; --no-chat completes the prompts as they are."""


def run(config: GenerateConfig) -> Answer:
    """Read the prompts, then load the model and complete them all; or talk."""
    if talks(config):
        return _chat(config)
    prompts = [_whole_text(config.prompt)] if config.prompt is not None else prompts_from_stdin()
    wanted = wanted_writer(config.model, config.adapter, config.labels)

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


def talks(config: GenerateConfig) -> bool:
    """Whether a person is there and gave no prompt."""
    return config.prompt is None and sys.stdin.isatty() and sys.stdout.isatty()


def _chat(config: GenerateConfig) -> Answer:
    """A conversation in the place of prompts; the completions are what the model said in it."""
    from loralab.cli.verbs import chat

    say(["no --prompt was given, and nothing is piped in: this is `loralab chat`"])
    given = {each.name: getattr(config, each.name) for each in fields(config)}
    changed = {each.name: given[each.name] for each in fields(config) if given[each.name] != each.default}
    same = {each.name: changed[each.name] for each in fields(chat.ChatConfig) if each.name in changed}
    said = chat.run(chat.ChatConfig(**same | _adapter_to_talk_to(config.adapter)))
    return {
        "completions": [turn["content"] for turn in said["messages"] if turn["role"] == "assistant"],
        "talked": True,
    }


def _adapter_to_talk_to(adapter: str | None) -> dict[str, Any]:
    """As `chat` is given it: a run's checkpoint by the run, whose name the conversation shows."""
    if adapter is None:
        return {"adapter": ()}
    run, word = run_and_word(adapter) or (adapter, None)
    return {"adapter": (run,), "checkpoint": word}


def prompts_from_stdin() -> list[str]:
    """The lines of stdin, which are UTF-8 whatever the locale says. An empty line is a prompt too: the model begins a
    text, and the completions have the lines' order.

    Raises DataError where stdin is empty, and for bytes that are not UTF-8.
    """
    if sys.stdin.isatty():
        raise DataError("no prompt was given: write --prompt TEXT, or pipe in one prompt a line")
    raw = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode("utf-8", "surrogatepass")
    text = decode_utf8("stdin", raw.removeprefix(MARK))
    if not text:
        raise DataError("a prompt was expected on every line of stdin, but stdin is empty; or give --prompt TEXT")
    return text_lines(text)


def _whole_text(prompt: str) -> str:
    """The prompt as it was given, if its bytes are UTF-8: others come in as halves of characters."""
    if lone_half(prompt):
        raise DataError(f"--prompt {prompt!r}: it holds bytes that are not UTF-8; correct them")
    return prompt


def show(answer: Answer) -> None:
    """One completion as it is; several one a line, their own line breaks written as \\n."""
    completions: list[str] = answer["completions"]
    if answer.get("talked"):
        return
    if len(completions) == 1:
        print(completions[0])
        return
    for completion in completions:
        print(completion.replace("\n", "\\n"))


VERB = Verb(
    GenerateConfig,
    run,
    show,
    talks=talks,
    example='loralab generate --model smollm2-135m --prompt "The capital of France is"',
)
