"""The entry point: finds the verb, runs it, prints its answer, and turns what went wrong into an exit status.

0 done, 1 our bug (traceback), 2 the user's input is wrong (`error: …`, or the answer of a check), 130 interrupted
(143 by SIGTERM).
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loralab.cli.checkpoint import at_checkpoint
from loralab.cli.config_file import ConfigFile, read_config_file
from loralab.cli.help import help_page
from loralab.cli.opening import say
from loralab.cli.parser import parse_arguments
from loralab.cli.progress import erase_progress, progress_line
from loralab.cli.settings import build_config, near_misses
from loralab.cli.showing import as_json
from loralab.cli.streams import Lasting
from loralab.cli.table import ANALYSES, VERBS, modules, summaries
from loralab.cli.verb import Verb
from loralab.errors import LoralabError, SpecError, first_line
from loralab.extras import require
from loralab.processes.place import ProcessPlace
from loralab.progress import shown_by
from loralab.version import __version__

DONE, USER_ERROR, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `loralab` with these arguments (those of the process by default) and return the exit status.

    An exception that nobody expected is raised again after an apology: Python prints the traceback and exits
    with 1.
    """
    with contextlib.redirect_stderr(Lasting(sys.stderr)):
        return _ended(list(sys.argv[1:] if arguments is None else arguments))


def _ended(arguments: list[str]) -> int:
    """The exit status, what went wrong said."""
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt as stopped:  # a training says where it stands, and which signal stopped it
        if ProcessPlace.here().index == 0:
            _complain(str(stopped) or "interrupted")
        return getattr(stopped, "status", INTERRUPTED)
    except (LoralabError, OSError) as error:
        if not isinstance(error, LoralabError) or ProcessPlace.here().says(error):
            _complain(f"error: {_described(error)}")
        return USER_ERROR
    except Exception as error:
        if _is_of_memory(error):
            _complain(f"error: {_OUT_OF_MEMORY} ({first_line(error)[:200]})")
            return USER_ERROR
        _complain("loralab failed where it should not have: this is our bug, sorry. What follows helps to find it.")
        raise


def _dispatch(arguments: list[str]) -> int:
    """Nothing asked shows what can be asked, and is no failure, as with gh, cargo and docker."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name == "help" and rest:
        return _dispatch([*rest, "--help"])
    if name in ("-h", "--help", "help"):
        return _print(_front_page())
    if name in ("-V", "--version"):
        return _print(f"loralab {__version__}")
    if name not in VERBS:
        raise SpecError(_unknown_verb(name))
    if name == "analyse":
        return _analyse(rest)
    return _run((name,), rest)


def _unknown_verb(name: str) -> str:
    if name in ANALYSES:
        return f"unknown verb {name!r}: it is an analysis, loralab analyse {name} …"
    return f"unknown verb {name!r}{near_misses(name, VERBS)}; known verbs: {', '.join(VERBS)}"


def _analyse(arguments: list[str]) -> int:
    """`loralab analyse NAME …`: each analysis is a verb with flags of its own."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "--help-all"):
        return _print(_analyses_page())
    if name not in ANALYSES:
        raise SpecError(
            f"unknown analysis {name!r}{near_misses(name, ANALYSES)}; known analyses: {', '.join(ANALYSES)} "
            "(see loralab analyse --help)"
        )
    return _run(("analyse", name), arguments[1:])


def _run(words: tuple[str, ...], arguments: list[str]) -> int:
    verb: Verb[Any] = importlib.import_module(modules()[words]).VERB
    program, summary = " ".join(("loralab", *words)), summaries()[words]
    given = parse_arguments(program, verb.config, arguments)
    if given.help or given.help_all:
        return _print(help_page(program, summary, verb, whole=given.help_all).rstrip("\n"))
    file = read_config_file(Path(given.config_file), verb.config) if given.config_file else ConfigFile({})
    say(file.notes)
    config = at_checkpoint(build_config(verb.config, given.flags, file.values, given.config_file or ""))
    for extra in verb.needs:
        require(extra, program)
    place = _place_for(words)
    with contextlib.ExitStack() as quiet:
        quiet.enter_context(shown_by(progress_line() if place.index == 0 else None))
        if given.json or not verb.talks(config):  # whatever a library prints: stdout holds the answer alone
            quiet.enter_context(contextlib.redirect_stdout(sys.stderr))
        answer = verb.run(config)
    if place.index == 0:
        _write(lambda: print(as_json(answer)) if given.json else verb.show(answer))
    return verb.status(answer)


def _place_for(words: tuple[str, ...]) -> ProcessPlace:
    """Where this process stands. Raises `SpecError` where a launcher started several of a verb that is for one."""
    place = ProcessPlace.here()
    if place.count > 1 and words != ("train",):
        raise SpecError(
            f"loralab {' '.join(words)} runs in one process, and this launcher started {place.count}; start it without "
            "one (train is what several processes do together)"
        )
    return place


def _front_page() -> str:
    verbs = "\n".join(f"  {name.ljust(10)} {summary}" for name, summary in VERBS.items())
    return (
        "usage: loralab VERB [flags]\n\n"
        "Low-rank adaptation of any PyTorch model: train, prove, merge and ship.\n\n"
        f"verbs:\n{verbs}\n\n"
        "`loralab VERB --help` shows the flags of a verb."
    )


def _analyses_page() -> str:
    analyses = "\n".join(f"  {name.ljust(14)} {summary}" for name, summary in ANALYSES.items())
    return (
        f"usage: loralab analyse NAME [flags]\n\n{VERBS['analyse']}\n\n"
        f"analyses:\n{analyses}\n\n"
        "`loralab analyse NAME --help` shows the flags of one.\n\n"
        "example:\n  loralab analyse subspace out/r8 out/r64 --out out/subspace"
    )


def _print(text: str) -> int:
    return _write(lambda: print(text))


def _write(show: Callable[[], None]) -> int:
    """Run what prints the answer. A reader such as `head` may close the pipe early: no failure."""
    try:
        show()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


_OUT_OF_MEMORY = (
    "the memory is not enough; take a smaller --batch-size or --max-length, or --gradient-checkpointing: loralab plan "
    "says what each needs"
)


_SAID_OF_MEMORY = ("can't allocate memory", "could not create a primitive")
"""By torch's allocator on a CPU, and by oneDNN, which says no more where it has no room for a product's code."""


def _is_of_memory(error: Exception) -> bool:
    """As Python, torch on a GPU and what computes on a CPU say it."""
    kinds = {type(error).__name__, type(error.__cause__).__name__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or any(said in str(error) for said in _SAID_OF_MEMORY)


def _complain(message: str) -> None:
    erase_progress()
    print(message, file=sys.stderr, flush=True)


def _described(error: Exception) -> str:
    """The message, with the process that met it alone."""
    alone = isinstance(error, LoralabError) and error.is_known_to_all is False and not error.is_of_a_lost_process
    return f"{f'process {ProcessPlace.here().index}: ' if alone else ''}{_describe(error)}"


def _describe(error: Exception) -> str:
    """The message of an error; the operating system's own (a full disk, …) without their numbers."""
    if isinstance(error, OSError) and not isinstance(error, LoralabError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)
