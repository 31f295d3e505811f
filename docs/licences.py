"""What loralab stands on: every package that `pip install 'loralab[all]'` brings, its version here and its licence.

The names come from the packages' own metadata, from one requirement to the next, as far as constraints.txt has them: a
machine with another system gets a few others beside.
"""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
SHORT = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache": "Apache-2.0",
    "BSD License": "BSD",
    "BSD-3-Clause License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "PSF": "PSF-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "FreeBSD": "BSD-2-Clause",
}
"""As metadata has a licence -> its identifier of SPDX, where one is meant."""


UNSAID = "UNKNOWN"
"""What old tools write there."""


def rows() -> list[list[str]]:
    """The table: package, version, licence, and who brings it."""
    brought = _brought()
    lines = []
    for name in sorted(brought):
        found = distribution(name)
        lines.append([f"`{name}`", found.version.partition("+")[0], _licence(found), ", ".join(sorted(brought[name]))])
    return [["package", "version", "licence", "comes with"], *lines]


def _brought() -> dict[str, set[str]]:
    """Package -> the extras that bring it, or `loralab` itself."""
    pinned = {line.partition("==")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()}
    known = {canonicalize_name(name) for name in pinned}
    found: dict[str, set[str]] = {}
    for extra in ("", "board", "data", "gguf", "images", "metrics", "plots", "serve"):
        for name in _reached("loralab", extra, known):
            found.setdefault(name, set()).add(extra or "loralab")
    return {name: {"loralab"} if "loralab" in by else by for name, by in found.items() if name != "loralab"}


def _reached(name: str, extra: str, known: set[str]) -> set[str]:
    """All that a package needs, however far away."""
    seen: set[str] = set()
    waiting = list(_needed(name, extra, known))
    while waiting:
        each, its_extra = waiting.pop()
        if each not in seen:
            seen.add(each)
            waiting += _needed(each, its_extra, known)
    return seen


def _needed(name: str, extra: str, known: set[str]) -> Iterator[tuple[str, str]]:
    try:
        requires = distribution(name).requires or []
    except PackageNotFoundError:
        return
    for text in requires:
        requirement = Requirement(text)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if wanted and canonicalize_name(requirement.name) in known:
            yield from ((canonicalize_name(requirement.name), each) for each in (requirement.extras or {""}))


def _licence(found: Distribution) -> str:
    """The expression that the package gives, or its classifier, or the first line of what it says."""
    said = found.metadata.get("License-Expression")
    if said:
        return str(said)
    classes = [each for each in found.metadata.get_all("Classifier") or [] if each.startswith("License ::")]
    names = [each.rpartition(" :: ")[2] for each in classes if not each.endswith("OSI Approved")]
    plain = [re.split(r"\n", str(found.metadata.get("License") or UNSAID).strip())[0]]
    short = ["not said in its metadata" if name == UNSAID else SHORT.get(name, name) for name in names or plain]
    return ", ".join(dict.fromkeys(short)).replace("|", "/")
