"""Completion for bash, 3.2 and later: `eval "$(loralab completion bash)"`. It needs no other package."""

from collections.abc import Iterable, Iterator

from loralab.cli.completion.words import Command, Flag

SCRIPT = """\
# Tab completion of loralab for bash. In ~/.bashrc: eval "$(loralab completion bash)"
_loralab() {{
  local IFS=$'\\n' cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" at=2 flags="" words="" files="" places="" several=""
  [[ $prev == "=" ]] && prev="${{COMP_WORDS[COMP_CWORD-2]}}"
  [[ $cur == "=" ]] && cur=""
  COMPREPLY=()
  if [[ $command == help ]]; then command="${{COMP_WORDS[2]}}"; at=3; fi
  if (( COMP_CWORD < at )); then
    COMPREPLY=($(IFS=' '; compgen -W "{verbs} help" -- "$cur"))
    return
  fi
{groups}
  case "$command" in
{commands}
  esac
  case "$command $prev" in
{values}
    *)
      if [[ $cur == -* || -z $places ]]; then words="$flags"; else eval "$places"; fi ;;
  esac
  local before=""
  if [[ -n $several && $cur == *,* ]]; then before="${{cur%,*}},"; cur="${{cur##*,}}"; fi
  if [[ -n $words ]]; then COMPREPLY=($(IFS=' '; compgen -P "$before" -W "$words" -- "$cur")); fi
  if [[ -n $files ]]; then
    type compopt &>/dev/null && compopt -o filenames
    COMPREPLY+=($(compgen -P "$before" -f -- "$cur"))
  fi
}}
complete -F _loralab loralab
"""
GROUP = """\
  if [[ $command == {group} ]]; then
    if (( COMP_CWORD == at )); then COMPREPLY=($(IFS=' '; compgen -W "{members}" -- "$cur")); return; fi
    command="{group} ${{COMP_WORDS[at]}}"
  fi"""


def script(every: Iterable[Command]) -> str:
    """What bash is to evaluate."""
    every = list(every)
    groups: dict[str, list[str]] = {}
    for command in every:
        if len(command.words) > 1:
            groups.setdefault(command.words[0], []).append(command.words[1])
    return SCRIPT.format(
        verbs=" ".join(dict.fromkeys(command.words[0] for command in every)),
        groups="\n".join(GROUP.format(group=group, members=" ".join(names)) for group, names in groups.items()),
        commands="\n".join(map(_command, every)),
        values="\n".join(_values(every)),
    )


def _command(command: Command) -> str:
    flags = " ".join(name for flag in command.flags for name in flag.names)
    places = _taken(command.places[0]) if command.places else ""
    return f'    "{command.name}") flags="{flags}"; places=\'{places}\' ;;'


def _values(every: Iterable[Command]) -> Iterator[str]:
    """A line for each kind of value, with all flags that take it; flags that take anything complete to nothing."""
    by_value: dict[str, list[str]] = {}
    for command in every:
        for flag in command.flags:
            if flag.stands_for:
                by_value.setdefault(_taken(flag), []).extend(f'"{command.name} {name}"' for name in flag.names)
    for taken, flags in by_value.items():
        yield f"    {'|'.join(flags)}) {taken} ;;"


def _taken(flag: Flag) -> str:
    """Assignments that say what a value is completed to."""
    said = [f'words="{" ".join(flag.values)}"'] if flag.values else []
    said += ["files=1"] if flag.files else []
    said += ["several=1"] if flag.several else []
    return "; ".join(said) or ":"
