"""`loralab convert`: an adapter written in another format, without a model."""

from dataclasses import dataclass, field
from typing import Literal

from loralab.cli.flags import ChoosesCheckpoint, GivesAlpha
from loralab.cli.opening import say
from loralab.cli.showing import show_answer
from loralab.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(GivesAlpha, ChoosesCheckpoint):
    """The flags of `loralab convert`."""

    src: str = field(metadata={"positional": True, "also": ("adapter",)})
    """The adapter to read: a PEFT folder, or a loralib checkpoint."""

    dst: str = field(metadata={"positional": True, "also": ("out",)})
    """What to write: a folder for peft, a file for loralib or gguf; it must not exist yet."""

    to: Literal["peft", "loralib", "gguf"]
    """The format to write; gguf is a LoRA for llama.cpp."""

    model: str | None = None
    """For gguf: the base model, of which only config.json is read. By default the one that the adapter records."""


def run(config: ConvertConfig) -> Answer:
    """Read, convert, write."""
    from loralab.formats.convert import convert

    done = convert(config.src, config.dst, config.to, config.alpha, config.model)
    say(done.notes)
    return done.to_json()


VERB = Verb(
    ConvertConfig,
    run,
    show_answer,
    example="loralab convert out/docstrings docstrings.gguf --to gguf",
)
