"""The oldest and the newest of what loralab stands on, a package at a time, each with a selection of the tests.

    python tests/compatibility.py                    # all but torch, into build/compatibility; `make compatibility`
    python tests/compatibility.py torch peft         # of these; torch is some gigabytes, as it comes with CUDA

A version is installed into a folder of its own, with what it needs, and Python looks there before the environment that
this runs in. The bounds are pyproject.toml's: what does not pass narrows them. What came of it is added to
docs/results/compatibility.json, from which docs/reliability.md has its table.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path
from time import perf_counter
from typing import Any

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
PLACE = REPOSITORY / "build" / "compatibility"
RECORD = REPOSITORY / "docs" / "results" / "compatibility.json"
BASICS = [
    "tests/core/test_attach.py",
    "tests/core/test_merge.py",
    "tests/core/test_spine.py",
    "tests/formats/test_folder.py",
    "tests/formats/merged",
    "tests/generation/test_generate.py",
    "tests/models/test_load.py",
    "tests/oracle/test_round_trip.py",
    "tests/serving/engine/test_engine.py",
    "tests/serving/http/test_app.py",
    "tests/training/test_resume.py",
]
"""Adapters, formats, PEFT beside ours, a training, answers served."""
MORE = {
    "torch": ["tests/core", "tests/models/fast", "tests/training/test_run.py"],
    "transformers": [
        "tests/cli/test_images.py",
        "tests/core/rows",
        "tests/evaluation/test_labels.py",
        "tests/generation",
        "tests/methods/prefix",
        "tests/models",
        "tests/tasks/encoding",
        "tests/training/test_run.py",
    ],
    "peft": ["tests/formats/test_peft_files.py", "tests/oracle"],
    "safetensors": ["tests/files", "tests/formats/test_damage.py"],
    "datasets": ["tests/tasks/own", "tests/tasks/readers", "tests/tasks/test_hub.py"],
}
"""Besides those: where the package is used most."""
LARGE = ("torch",)
"""Only asked for by name."""
ALONE = ("peft", "safetensors")
"""Installed without what they need, which is what is here: for PEFT that is torch again."""
STAY = ("numpy", "pandas", "pyarrow")
"""What another version may not bring along."""
MARKS = "not slow and not faults and not examples and not package"
LENIENT = ["-W", "default::DeprecationWarning", "-W", "default::FutureWarning"]
"""What another version warns of is not our error."""


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
    folder, draft = PLACE / f"{name}-{which}", PLACE / f"{name}-{which}.part"
    if not folder.exists():
        pins = PLACE / "stay.txt"
        pins.write_text("".join(f"{each}=={version(each)}\n" for each in STAY))
        how = ["--no-deps"] if name in ALONE else ["--constraint", str(pins)]
        environment = {key: each for key, each in os.environ.items() if key != "PIP_CONSTRAINT"}
        command = [sys.executable, "-m", "pip", "install", "--quiet", *how, "--target", str(draft), wanted(name, which)]
        subprocess.run(command, check=True, env=environment)
        draft.rename(folder)
    return folder


def brought(folder: Path) -> dict[str, str]:
    """The versions of ours in that folder that are not those of this environment."""
    found = {
        each.metadata["Name"].lower().replace("_", "-"): each.version for each in distributions(path=[str(folder)])
    }
    known = {name.lower().replace("_", "-") for name in bounds()}
    return {name: each for name, each in sorted(found.items()) if name in known and each != version(name)}


def version_in(folder: Path, name: str) -> str:
    """Of a package that is installed there."""
    return next(each.version for each in distributions(path=[str(folder)]) if each.metadata["Name"].lower() == name)


def passes(name: str, folder: Path) -> dict[str, Any]:
    """Which version it was, how many tests passed and failed, and the seconds they took."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY / 'src'}", "HF_HUB_OFFLINE": "1"}
    files = sorted({*BASICS, *MORE[name]})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *LENIENT, "-m", MARKS, *files]
    started = perf_counter()
    told = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    seconds = perf_counter() - started
    folder.with_suffix(".log").write_text(told.stdout + told.stderr)
    counts = {each: int(count) for count, each in re.findall(r"(\d+) (passed|failed|error)", told.stdout[-500:])}
    beside = {each: number for each, number in brought(folder).items() if each != name}
    return {
        "version": version_in(folder, name),
        "beside": beside,
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0),
        "ended": told.returncode,
        "seconds": round(seconds),
    }


def main(names: list[str]) -> int:
    """Print a line for each, and note it in the record."""
    PLACE.mkdir(parents=True, exist_ok=True)
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    failed = False
    for name in names or [each for each in MORE if each not in LARGE]:
        folders = {which: installed(name, which) for which in ("oldest", "newest")}
        if version_in(folders["oldest"], name) == version_in(folders["newest"], name):
            del folders["oldest"]
        for which, folder in folders.items():
            record[f"{name}, {which}"] = answer = passes(name, folder)
            failed |= answer["ended"] != 0
            print(f"{name}, {which}: {answer}", flush=True)
            RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
