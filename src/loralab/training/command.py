"""Commands of `loralab` that can be pasted into a shell, from what a run knows. Loads no torch."""

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from loralab.training.config import TrainConfig

WIDTH = 80
LONGEST_PROMPT = 60


def command_line(verb: str, *words: str, **flags: Any) -> str:
    """`loralab VERB words… --flag value…` on one line. Flags that are None are left out."""
    return " ".join(["loralab", verb, *map(shlex.quote, words), *_flags(flags)])


def train_command(config: TrainConfig, **changes: Any) -> str:
    """The command of this training: what is not at its default, with changes."""
    given = {
        each.name: getattr(config, each.name)
        for each in fields(TrainConfig)
        if each.default is MISSING or getattr(config, each.name) != each.default
    }
    first = {name: given.pop(name) for name in ("model", "task", "data", "out") if name in given}
    return command_line("train", **first | given | changes)


def next_commands(
    config: TrainConfig, kind: str, *, split: str | None, merges: bool, prompt: str | None
) -> dict[str, str]:
    """What can be done with the adapter that a run left, by verb. `kind` is the task's; `split` can be measured on."""
    loading = {"quantize": config.quantize, **_unusual(config, "dtype")}
    both = {"model": config.model, "adapter": config.out}
    commands = {"inspect": command_line("inspect", config.out, model=config.model, **loading)}
    if kind in ("generation", "preference"):
        commands["generate"] = command_line("generate", **both, **loading, prompt=_fitting(prompt))
    if split is not None:
        held_out = {"data": config.data, "split": split}
        if config.validation is not None:
            held_out = {"data": config.validation, "split": split if Path(config.validation).is_dir() else "all"}
        data = {"task": config.task, **held_out, **_unusual(config, "max_length")}
        commands["eval"] = command_line("eval", **both, **data, **loading)
    if merges:
        commands["merge"] = command_line("merge", **both, out=f"{config.out.rstrip('/')}-merged")
    order = ("eval", "generate", "inspect", "merge")
    return {verb: commands[verb] for verb in order if verb in commands}


def _fitting(prompt: str | None) -> str:
    """A prompt that fits into a line of the shell."""
    return prompt if prompt and len(prompt) <= LONGEST_PROMPT and prompt.isprintable() else "your text"


def _unusual(config: TrainConfig, name: str) -> dict[str, Any]:
    """The field, where it is not at its default."""
    default = next(each.default for each in fields(TrainConfig) if each.name == name)
    return {} if getattr(config, name) == default else {name: getattr(config, name)}


def folded(command: str, indent: str = "  ") -> str:
    """The command over lines of 80 columns, each but the last ended by the backslash that a shell goes on after."""
    lines, line = [], indent
    for word in _words(command):
        if len(line) + len(word) + 3 > WIDTH and line.strip():
            lines.append(f"{line} \\")
            line = f"{indent}  {word}"
        else:
            line = f"{line} {word}" if line.strip() else f"{indent}{word}"
    return "\n".join([*lines, line])


def _words(command: str) -> list[str]:
    """The words of a command as they are quoted, a flag together with its value."""
    words: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if words and words[-1].startswith("--") and " " not in words[-1] and not word.startswith("--"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


def _flags(flags: Mapping[str, Any]) -> list[str]:
    written = []
    for name, value in flags.items():
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        if isinstance(value, bool):
            written.append(flag if value else flag.replace("--", "--no-", 1))
        elif value is not None:
            text = shlex.quote(_text(value))
            written.append(f"{flag}={text}" if text.startswith(("-", "'-")) else f"{flag} {text}")
    return written


def _text(value: Any) -> str:
    """A value as the command line reads it."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_bracketed(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value)


def _bracketed(value: Any) -> str:
    return f"[{_text(value)}]" if isinstance(value, list | tuple) else _text(value)
