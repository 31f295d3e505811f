"""Completion for fish: `loralab completion fish | source`, or a file in ~/.config/fish/completions."""

from collections.abc import Iterable, Iterator

from loralab.cli.completion.words import Command, Flag

HEAD = """\
# Tab completion of loralab for fish. In ~/.config/fish/config.fish: loralab completion fish | source
function __loralab_at
    set -l given (commandline -opc)
    set -e given[1]
    string match -q -- "$argv *" "$given "
end
function __loralab_lacks
    set -l given (commandline -opc)
    set -e given[1]
    test "$given" = "$argv"
end
complete -c loralab -f"""


def script(every: Iterable[Command]) -> str:
    """What fish is to source."""
    return "\n".join([HEAD, *_lines(list(every))]) + "\n"


def _lines(every: list[Command]) -> Iterator[str]:
    groups = dict.fromkeys(command.words[0] for command in every if len(command.words) > 1)
    for command in every:
        *before, name = command.words
        yield f"complete -c loralab -n '__loralab_lacks {' '.join(before)}' -a {name} -d {_quoted(command.about)}"
        condition = _quoted(f"__loralab_at {command.name}")
        for flag in command.flags:
            for name in flag.names:
                yield f"complete -c loralab -n {condition} -l {name[2:]}{_value(flag)} -d {_quoted(flag.about)}"
        for place in command.places[:1]:
            yield f"complete -c loralab -n {condition}{_value(place).replace(' -x', '').replace(' -r', '')}"
    for name in [*groups, "help"]:
        yield f"complete -c loralab -n '__loralab_lacks' -a {name}"


def _value(flag: Flag) -> str:
    if not flag.stands_for:
        return ""
    names = f" -a {_quoted(' '.join(flag.values))}" if flag.values else ""
    return (" -r -F" if flag.files else " -x") + names


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
