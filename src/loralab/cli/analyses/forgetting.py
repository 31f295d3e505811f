"""`loralab analyse forgetting`: the base's loss on other text before and after the adapter, beside the task's gain."""

from dataclasses import dataclass
from pathlib import Path

from loralab.cli.flags import MeasuredAdapter, WritesFolder
from loralab.cli.opening import open_measured
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import FilesAmong, writing

FILES = FilesAmong(("forgetting.json", "forgetting.png"))


@dataclass(frozen=True, kw_only=True)
class ForgettingConfig(MeasuredAdapter, WritesFolder):
    """The flags of `loralab analyse forgetting`."""

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
    from loralab.analysis.adapters.forgetting import analyse_forgetting, embedded_text, read_text

    with writing(config.out, FILES, overwrite=config.overwrite, reads=(config.data, *(config.text or ()))):
        texts = [embedded_text()] if config.text is None else [read_text(path) for path in config.text]
        adapter, measurement = open_measured(config)
        out = Path(config.out)
        return analyse_forgetting(adapter, measurement, texts, out, tokens=config.tokens, window=config.window)


def show(answer: Answer) -> None:
    """The task, then the texts."""
    texts = answer["texts"]
    title = f"What {answer['adapter']} gained and forgot"
    rows = [_task_line(answer), None, *map(_text_line, texts)]
    show_table(title, ("measured on", "base", "adapter", "change", "± s.e."), rows)
    show_lines(
        *(f"{row['text']}: {row['verdict']} ({row['tokens']:,} tokens, {row['windows']} windows)" for row in texts),
        *answer["notes"],
    )
    show_files(answer["files"])


def _task_line(answer: Answer) -> list[str]:
    before, after = answer["without_adapter"], answer["with_adapter"]
    task = f"{answer['task']}, {answer['split']}: {answer['metric']}"
    return [task, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}", ""]


def _text_line(row: Answer) -> list[str]:
    error = "-" if row["standard_error"] is None else f"{row['standard_error']:.4f}"
    numbers = (f"{row['loss_before']:.4f}", f"{row['loss_after']:.4f}", f"{row['change']:+.4f}")
    return [f"{row['text']}: loss", *numbers, error]


VERB = Verb(
    ForgettingConfig,
    run,
    show,
    example="loralab analyse forgetting --model smollm2-135m --adapter out/r8 \\\n"
    "  --task docstrings --out out/forgetting",
    needs=("plots",),
)
