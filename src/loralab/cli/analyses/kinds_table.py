"""A table with a line for each kind of module, as several analyses print it. It knows nothing of what is measured."""

from collections.abc import Mapping

from loralab.cli.verb import Answer

WIDTH = 80


def show_kinds(answer: Answer, title: str, columns: Mapping[str, str]) -> None:
    """Print `answer["kinds"]`, a column for each key, and the files that were written."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("modules")
    for name in columns.values():
        table.add_column(name, justify="right")
    for kind, numbers in answer["kinds"].items():
        table.add_row(f"{numbers['modules']} {kind}", *(f"{numbers[name]:.4g}" for name in columns))
    console = Console(width=WIDTH, highlight=False)
    console.print(table)
    for path in answer["files"]:
        console.print(path, markup=False, soft_wrap=True)
