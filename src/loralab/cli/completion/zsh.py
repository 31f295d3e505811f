"""Completion for zsh: `eval "$(loralab completion zsh)"` after compinit, or a file `_loralab` in a folder of fpath."""

from collections.abc import Iterable

from loralab.cli.completion.words import Command, Flag

SCRIPT = """\
#compdef loralab
# Tab completion of loralab for zsh. In ~/.zshrc, after compinit: eval "$(loralab completion zsh)"
_loralab_either() {{ compadd - "$@"; _files }}
_loralab() {{
  local -a verbs members
  verbs=({verbs})
  [[ $words[2] == help ]] && {{ shift words; (( CURRENT-- )) }}
  if (( CURRENT == 2 )); then _describe verb verbs; return; fi
  local command=$words[2]
  shift words; (( CURRENT-- ))
  case $command in
{groups}
  esac
  case $command in
{commands}
  esac
}}
if [[ $funcstack[1] == _loralab ]]; then _loralab "$@"; else compdef _loralab loralab; fi
"""
GROUP = """\
    {group})
      members=({members})
      if (( CURRENT == 2 )); then _describe name members; return; fi
      command="{group} $words[2]"
      shift words; (( CURRENT-- )) ;;"""


def script(every: Iterable[Command]) -> str:
    """What zsh is to evaluate, or to load."""
    every = list(every)
    verbs = {command.words[0]: command.about for command in every if len(command.words) == 1}
    groups: dict[str, dict[str, str]] = {}
    for command in every:
        if len(command.words) > 1:
            groups.setdefault(command.words[0], {})[command.words[1]] = command.about
    verbs |= dict.fromkeys(groups, "several, each a verb of its own") | {"help": "what a verb takes"}
    return SCRIPT.format(
        verbs=_described(verbs),
        groups="\n".join(GROUP.format(group=group, members=_described(names)) for group, names in groups.items()),
        commands="\n".join(map(_command, every)),
    )


def _described(names: dict[str, str]) -> str:
    return " ".join(_quoted(f"{name}:{about}") for name, about in names.items())


def _command(command: Command) -> str:
    flags = [_quoted(_specified(flag, name)) for flag in command.flags for name in flag.names]
    places = [_quoted(f"{'*' if each.several else ''}:{each.stands_for}:{_action(each)}") for each in command.places]
    return f'    "{command.name}") _arguments -S {" ".join([*flags, *places])} ;;'


def _specified(flag: Flag, name: str) -> str:
    about = flag.about.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    if not flag.stands_for:
        return f"{name}[{about}]"
    return f"{'*' if flag.several else ''}{name}=[{about}]:{flag.stands_for}:{_action(flag)}"


def _action(flag: Flag) -> str:
    """What completes a value: names, paths, both, or nothing."""
    names = " ".join(flag.values)
    if flag.values and flag.files:
        return f" _loralab_either {names}"
    if flag.values:
        return f"_sequence compadd - {names}" if flag.several else f"({names})"
    if flag.files:
        return "_files"
    return " "


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
