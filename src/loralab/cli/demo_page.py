"""What the demo shows for people, at 80 columns: scores before and after, samples side by side, sizes, the merge."""

from typing import Any

from loralab.cli.showing import readable_bytes
from loralab.cli.verb import Answer

WIDTH = 80
SHOWN_SAMPLES = 4


def show_demo(answer: Answer) -> None:
    """Print the page on stdout."""
    from rich.console import Console

    console = Console(width=WIDTH, highlight=False)
    console.print()
    console.print(_scores(answer))
    console.print("Its docstrings, beside what the library's authors wrote:\n", style="italic")
    for sample in answer["samples"][:SHOWN_SAMPLES]:
        console.print(sample["prompt"].splitlines()[0], style="bold", markup=False, no_wrap=True, overflow="ellipsis")
        console.print(_side_by_side(sample))
    for line in _facts(answer):
        console.print(line, markup=False)


def _scores(answer: Answer) -> Any:
    from rich.table import Table

    before, after = answer["before"], answer["after"]
    table = Table(title=f"{answer['examples']} held-out functions", title_justify="left")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("")
    table.add_row("loss", f"{before['loss']:.3f}", f"{after['loss']:.3f}", "nats per target token")
    table.add_row("ROUGE-L", f"{before['rouge_l']:.1f}", f"{after['rouge_l']:.1f}", "of 100")
    return table


def _side_by_side(sample: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(width=WIDTH)
    for name in ("before", "after", "reference"):
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*(Text(one_line(sample[name]), overflow="fold") for name in ("before", "after", "reference")))
    return table


def one_line(text: str) -> str:
    """A generated text without its line breaks."""
    return " ".join(text.split()) or "(nothing)"


def _facts(answer: Answer) -> list[str]:
    merge, adapter, model = answer["merge"], answer["adapter_bytes"], answer["model_bytes"]
    return [
        f"Adapter: {readable_bytes(adapter)} beside a model of {readable_bytes(model)} ({adapter / model:.2%}); "
        f"{answer['trainable_params']:,} of {answer['total_params']:,} parameters trained.",
        f"Merged: {merge['tensors']} tensors changed, written to {merge['out']}, reopened and compared: largest "
        f"logit error {merge['max_abs_logit_error']:.2g} (tolerance {merge['tolerance']:.2g}), mean KL "
        f"{merge['mean_kl']:.1g}, same likeliest token at {merge['argmax_agreement']:.1%} of positions.",
        f"{answer['seconds']:.0f} seconds in all. The adapter is in {answer['adapter']}.",
    ]
