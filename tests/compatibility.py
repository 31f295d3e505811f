"""The oldest and the newest of what loralab stands on, a package at a time, each with a selection of the tests.

    python tests/compatibility.py                    # all of it, into build/compatibility; `make compatibility`
    python tests/compatibility.py transformers peft  # of these

A version is installed into a folder of its own, which Python looks into before the environment that this runs in. The
bounds are pyproject.toml's: what does not pass narrows them. torch is not among them: it is too large for that.
"""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
PLACE = REPOSITORY / "build" / "compatibility"
SELECTION = {
    "transformers": [
        "tests/formats/test_folder.py",
        "tests/training/test_resume.py",
        "tests/formats/merged/test_export.py",
    ],
    "peft": ["tests/oracle/test_round_trip.py", "tests/formats/test_peft_files.py"],
    "safetensors": ["tests/formats/test_folder.py", "tests/files", "tests/formats/test_damage.py"],
    "datasets": ["tests/tasks/readers", "tests/tasks/test_hub.py"],
}
OLD_HUB = ["huggingface_hub>=1,<2", "httpcore", "httpx"]
BESIDE = {
    ("transformers", "oldest"): [*OLD_HUB, "tokenizers>=0.22,<0.23"],
    ("safetensors", "oldest"): [*OLD_HUB, "tokenizers>=0.22,<0.23", "transformers==5.0.0"],
}
"""What a version needs in another version than the one that is here."""


def bounds() -> dict[str, Requirement]:
    """By package, of all that pyproject.toml names."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *(each for group in project["optional-dependencies"].values() for each in group)]
    found = [Requirement(each) for each in named]
    return {each.name: each for each in found if each.specifier}


def wanted(name: str, which: str) -> str:
    """As pip is asked for it: the lower bound itself, or whatever is the newest within the bounds."""
    requirement = bounds()[name]
    lowest = next(each.version for each in requirement.specifier if each.operator == ">=")
    full = lowest + ".0" * (2 - lowest.count("."))
    return f"{name}=={full}" if which == "oldest" else f"{name}{requirement.specifier}"


def installed(name: str, which: str) -> Path:
    """The folder with that version; what is there already stays."""
    folder = PLACE / f"{name}-{which}"
    if not folder.exists():
        asked = [wanted(name, which), *BESIDE.get((name, which), [])]
        environment = {key: each for key, each in os.environ.items() if key != "PIP_CONSTRAINT"}
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *asked]
        subprocess.run(command, check=True, env=environment)
    return folder


def passes(name: str, which: str) -> dict[str, object]:
    """Whether the selection passes, and the last line of what pytest says."""
    folder = installed(name, which)
    found = sorted(
        each.name.split("-")[1].removesuffix(".dist") for each in folder.glob(f"{name.replace('-', '_')}-*.dist-info")
    )
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY / 'src'}", "HF_HUB_OFFLINE": "1"}
    marks = "not slow and not faults and not examples and not package"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, *SELECTION[name]]
    told = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    (PLACE / f"{name}-{which}.log").write_text(told.stdout + told.stderr)
    lines = told.stdout.strip().splitlines()
    return {"version": ", ".join(found), "passes": told.returncode == 0, "said": lines[-1] if lines else "nothing"}


def main(names: list[str]) -> int:
    """Print a line for each, and the whole as JSON."""
    PLACE.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in names or list(SELECTION):
        for which in ("oldest", "newest"):
            found[f"{name}, {which}"] = answer = passes(name, which)
            print(f"{name} {answer['version']} ({which}): {answer['said']}", flush=True)
    (PLACE / "matrix.json").write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(each["passes"] for each in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
