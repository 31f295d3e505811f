"""`loralab completion`: a script that lets the Tab key complete verbs, flags, their values and files."""

from dataclasses import dataclass, field
from typing import Literal

from loralab.cli.completion import bash, fish, zsh
from loralab.cli.completion.words import commands
from loralab.cli.verb import Answer, Verb

SCRIPTS = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """The flags of `loralab completion`."""

    shell: Literal["bash", "zsh", "fish"] = field(metadata={"positional": True})
    """The shell that is to evaluate the script, at its start."""


def run(config: CompletionConfig) -> Answer:
    """Write the script for a shell; nothing heavy is loaded, so that a shell can ask for it at its start."""
    from loralab.cli.table import modules, summaries

    return {"script": SCRIPTS[config.shell](commands(modules(), summaries()))}


def show(answer: Answer) -> None:
    """The script."""
    print(answer["script"], end="")


VERB = Verb(
    CompletionConfig,
    run,
    show,
    example=(
        'eval "$(loralab completion bash)"    # in ~/.bashrc\n'
        'eval "$(loralab completion zsh)"     # in ~/.zshrc, after compinit\n'
        "loralab completion fish | source     # in ~/.config/fish/config.fish"
    ),
)
