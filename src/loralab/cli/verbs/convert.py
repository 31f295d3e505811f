"""`loralab convert`: an adapter written in another format, without a model."""

from dataclasses import dataclass, field
from typing import Literal

from loralab.cli.answer import show_answer
from loralab.cli.verb import Answer, Verb


@dataclass(frozen=True)
class ConvertConfig:
    """Everything that `loralab convert` can be told."""

    src: str = field(metadata={"positional": True})
    """The adapter to read: a PEFT folder, or a loralib checkpoint."""

    dst: str = field(metadata={"positional": True})
    """What to write: a folder for peft, a file for loralib; it must not exist yet."""

    to: Literal["peft", "loralib"]
    """The format to write."""

    alpha: float | None = None
    """The alpha of a loralib checkpoint, which does not record it."""


def run(config: ConvertConfig) -> Answer:
    """Read, convert, write."""
    from loralab.formats.convert import convert

    return convert(config.src, config.dst, config.to, config.alpha).to_json()


VERB = Verb(
    ConvertConfig,
    run,
    show_answer,
    example="loralab convert out/docstrings docstrings.safetensors --to loralib",
)
