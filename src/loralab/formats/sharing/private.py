"""What must not leave a machine with an adapter: paths, secrets, and the texts that a run was trained on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_PATH = re.compile(r"(?<![\w.:/\\~])(?:~|[A-Za-z]:(?=[\\/]))?[/\\](?:[^\s/\\'\"`,;:()]+[/\\])+(?=[^\s/\\])")
"""The folders of an absolute path, up to its last name; an address (https://…) has a colon before its slashes."""
_WHOLE = re.compile(r"~?[/\\]|[A-Za-z]:[/\\]")
"""How a setting begins that is a path as a whole."""
_SECRETS = {
    "a token of the Hugging Face Hub": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "a token of GitHub": re.compile(r"\b(?:ghp_|github_pat_)[A-Za-z0-9_]{30,}\b"),
    "a key of an API": re.compile(r"\bsk-[A-Za-z0-9_-]{32,}\b"),
    "a key of AWS": re.compile(r"\bAKIA[A-Z0-9]{16}\b"),
}
_OF_THE_RUN_ONLY = ("samples", "next")
"""In run.json's result: texts of the data, and commands with the machine's own places."""


def shareable(content: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """run.json, or another file of its adapter, without paths and texts of the data. `run` is the content of run.json,
    whose settings say which paths there may be.
    """
    result = content.get("result")
    kept = {name: value for name, value in content.items() if name != "result"}
    if isinstance(result, Mapping):
        kept["result"] = {name: value for name, value in result.items() if name not in _OF_THE_RUN_ONLY}
    settings = run.get("config")
    named = settings.values() if isinstance(settings, Mapping) else ()
    places = sorted((each for each in named if isinstance(each, str) and _WHOLE.match(each)), key=len, reverse=True)
    return {name: _without_paths(value, places) for name, value in kept.items()}


def _without_paths(value: Any, places: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {_without_paths(name, places): _without_paths(each, places) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each, places) for each in value]
    return without_folders(value, places) if isinstance(value, str) else value


def without_folders(text: str, places: Sequence[str] = ()) -> str:
    """The text with only the last name of every absolute path in it; `places` are paths, which may hold spaces."""
    for place in places:
        text = text.replace(place, re.split(r"[/\\]", place.rstrip("/\\"))[-1])
    return _PATH.sub("", text)


def findings(text: str) -> Iterator[str]:
    """What is in a text that should not leave: each with the line that it is in."""
    home = str(Path.home())
    for number, line in enumerate(text.splitlines(), start=1):
        yield from (f"{what} in line {number}" for what, pattern in _SECRETS.items() if pattern.search(line))
        if len(home) > 1 and re.search(rf"{re.escape(home)}(?=[/\\])", line):
            yield f"a path in your home folder in line {number}"
