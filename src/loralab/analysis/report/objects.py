"""The JSON object of a file, or an error that says what is wrong with the file."""

import json
from pathlib import Path
from typing import Any

from loralab.errors import SpecError


def read_object(file: Path) -> dict[str, Any]:
    """Raises SpecError for a file that is no complete JSON object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise SpecError(f"{file} is not complete JSON ({problem}); make the result again") from problem
    if not isinstance(content, dict):
        raise SpecError(f"{file} should hold one JSON object, and holds a {type(content).__name__}")
    return content
