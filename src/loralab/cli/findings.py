"""Findings printed for people. Knows nothing of what was examined."""

from collections.abc import Iterable, Mapping
from typing import Any

WIDTH = 80
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show_findings(findings: Iterable[Mapping[str, Any]]) -> None:
    """One after another: how severe, where, what, and what to do."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=max(map(len, STYLES)))
    grid.add_column(overflow="fold")
    for each in findings:
        said = Text.assemble((each["where"], "bold"), f": {each['what']}", (f"\n→ {each['advice']}", "green"))
        grid.add_row(Text(each["severity"], STYLES[each["severity"]]), said)
    Console(width=WIDTH, highlight=False).print(grid)
