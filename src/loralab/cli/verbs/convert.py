"""`loralab convert`: an adapter written in another format, without a model."""

from dataclasses import dataclass, field
from typing import Literal

from loralab.cli.flags import ChoosesCheckpoint, GivesAlpha, WritesFolder
from loralab.cli.opening import say
from loralab.cli.showing import show_answer
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import ADAPTER, LoneFile, Writes, writing

WRITTEN_AS: dict[str, Writes] = {
    "peft": ADAPTER,
    "loralib": LoneFile("a loralib checkpoint", lambda head: head[8:9] == b"{"),
    "gguf": LoneFile("a GGUF file", lambda head: head.startswith(b"GGUF")),
}
"""A format -> what of it is on the disk; safetensors begins with the size of its header, which is JSON."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(GivesAlpha, ChoosesCheckpoint, WritesFolder):
    """The flags of `loralab convert`."""

    src: str = field(metadata={"positional": True, "also": ("adapter",)})
    """The adapter to read: a PEFT folder, or a loralib checkpoint."""

    dst: str = field(metadata={"positional": True, "also": ("out",)})
    """What to write: a folder for peft, a file for loralib or gguf."""

    to: Literal["peft", "loralib", "gguf"]
    """The format to write; gguf is a LoRA for llama.cpp."""

    model: str | None = None
    """For gguf: the base model, of which only config.json is read. By default the one that the adapter records."""


def run(config: ConvertConfig) -> Answer:
    """Read, convert, write."""
    from loralab.formats.convert import convert

    with writing(config.dst, WRITTEN_AS[config.to], overwrite=config.overwrite, reads=(config.src,)):
        done = convert(config.src, config.dst, config.to, config.alpha, config.model)
    say(done.notes)
    return done.to_json()


VERB = Verb(
    ConvertConfig,
    run,
    show_answer,
    example="loralab convert out/docstrings docstrings.gguf --to gguf",
)
