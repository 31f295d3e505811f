"""`loralab analyse forgetting`: the base's loss on other text before and after the adapter, beside the task's gain."""

from dataclasses import dataclass
from pathlib import Path

from loralab.cli.measured import MeasuredAdapter, open_measured
from loralab.cli.verb import Answer, Verb

WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class ForgettingConfig(MeasuredAdapter):
    """Everything that `loralab analyse forgetting` can be told."""

    text: tuple[str, ...] | None = None
    """Plain UTF-8 texts that neither the adapter nor its task knows. The default is the reference of Python's language
    in English, which every Python holds.
    """

    tokens: int = 8192
    """Tokens of each text, in windows spread evenly over it."""

    window: int = 512
    """Tokens of a window; a model with a shorter context takes that."""


def run(config: ForgettingConfig) -> Answer:
    """Read the texts, load, measure, write the files."""
    from loralab.analysis.adapters.forgetting import embedded_text, read_text
    from loralab.analysis.adapters.forgetting_report import analyse_forgetting

    texts = [embedded_text()] if config.text is None else [read_text(path) for path in config.text]
    adapter, measurement = open_measured(config)
    out = Path(config.out)
    return analyse_forgetting(adapter, measurement, texts, out, tokens=config.tokens, window=config.window)


def show(answer: Answer) -> None:
    """The task, then the texts."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=WIDTH, highlight=False)
    table = Table(title=f"What {answer['adapter']} gained and forgot", title_justify="left", title_style="bold")
    table.add_column("measured on", overflow="fold")
    for name in ("base", "adapter", "change", "± s.e."):
        table.add_column(name, justify="right")
    change = answer["with_adapter"] - answer["without_adapter"]
    task = f"{answer['task']}, {answer['split']}: {answer['metric']}"
    table.add_row(task, f"{answer['without_adapter']:.4f}", f"{answer['with_adapter']:.4f}", f"{change:+.4f}", "")
    table.add_section()
    for row in answer["texts"]:
        error = "-" if row["standard_error"] is None else f"{row['standard_error']:.4f}"
        numbers = (f"{row['loss_before']:.4f}", f"{row['loss_after']:.4f}", f"{row['change']:+.4f}", error)
        table.add_row(f"{row['text']}: loss", *numbers)
    console.print(table)
    for row in answer["texts"]:
        verdict = f"{row['text']}: {row['verdict']} ({row['tokens']:,} tokens, {row['windows']} windows)"
        console.print(verdict, markup=False, soft_wrap=True)
    for path in answer["files"]:
        console.print(path, markup=False, soft_wrap=True)


VERB = Verb(
    ForgettingConfig,
    run,
    show,
    example="loralab analyse forgetting --model smollm2-135m --adapter out/r8 \\\n"
    "  --task docstrings --out out/forgetting",
)
