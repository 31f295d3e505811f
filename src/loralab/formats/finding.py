"""What an examination found wrong, as data. Knows nothing of adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: an error spoils the adapter, a warning may; a note is for its use elsewhere."""

    severity: Severity
    where: str
    """A file, a module, or another program."""
    what: str
    advice: str
    """What to do."""


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Sorted by severity, each once."""
    return sorted(dict.fromkeys(findings), key=lambda each: SEVERITIES.index(each.severity))


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
