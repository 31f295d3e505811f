"""The C++ beside this file as a library of this process: compiled for its processor at the first use, never kept."""

import ctypes
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.cpp")))
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-trapping-math", "-fno-math-errno", "-shared", "-fPIC")
THREADING = ("-fopenmp",)
"""Left out where a compiler does not know it: one thread then."""
SECONDS = 60.0
"""After which a compiler is given up; it takes one or two."""


class NoLibraryError(Exception):
    """Why there is no library."""


@cache
def library() -> ctypes.CDLL | str:
    """The library, or why there is none: no compiler, one that fails, or what cannot be loaded."""
    try:
        return _built(_compiler())
    except NoLibraryError as why:
        return str(why)


def _compiler() -> list[str]:
    """The command: what CXX says, as everywhere, or the first that is found."""
    asked = os.environ.get("CXX", "").split()
    found = [path for path in map(shutil.which, asked[:1] or COMPILERS) if path is not None]
    if not found:
        raise NoLibraryError(f"no C++ compiler was found ({asked[0] if asked else ', '.join(COMPILERS)})")
    return [found[0], *asked[1:]]


def _built(compiler: list[str]) -> ctypes.CDLL:
    with TemporaryDirectory(prefix="loralab-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "kernels.so"
        problem = _compiled([*compiler, *FLAGS, *THREADING], target)
        if problem and _compiled([*compiler, *FLAGS], target):
            raise NoLibraryError(f"{Path(compiler[0]).name} failed: {problem}")
        try:
            return ctypes.CDLL(str(target))
        except OSError as error:
            said = str(error).replace(folder, "…")
            raise NoLibraryError(f"what {Path(compiler[0]).name} made cannot be loaded: {said}") from None


def _compiled(command: list[str], target: Path) -> str:
    """What the compiler complained of; empty where it did not."""
    try:
        done = subprocess.run(
            [*command, "-o", str(target), *map(str, SOURCES)],
            capture_output=True, text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return next(iter(done.stderr.strip().splitlines()), f"exit {done.returncode}") if done.returncode else ""
