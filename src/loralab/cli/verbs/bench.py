"""`loralab bench`: what is measured on this machine, as ratios. For now latency: the paper's Table 1 and Figure 5."""

from dataclasses import dataclass, field
from typing import Any, Literal

from loralab.cli.opening import say
from loralab.cli.verb import Answer, Verb
from loralab.experiments.latency.config import LatencyConfig

WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class BenchConfig(LatencyConfig):
    """Everything that `loralab bench` can be told."""

    bench: Literal["latency"] = field(metadata={"positional": True})
    """What to measure: latency, one forward pass of the base, of LoRA merged and live, and of bottleneck adapters."""


def run(config: BenchConfig) -> Answer:
    """Measure; how it goes is said on stderr."""
    from loralab.experiments.latency.measure import measure_latency
    from loralab.experiments.latency.result import as_answer

    return as_answer(measure_latency(config, lambda sentence: say([sentence])))


def show(answer: Answer) -> None:
    """The table beside the paper's, and the verdicts on merged LoRA."""
    from rich.console import Console

    console = Console(width=WIDTH, highlight=False)
    console.print(_table(answer))
    for sentence in _verdicts(answer):
        console.print(sentence, markup=False)
    for path in answer["files"]:
        console.print(path, markup=False, soft_wrap=True)


def _table(answer: Answer) -> Any:
    """A line for each contender in each setting."""
    from rich.table import Table

    weights = ", random weights" if answer["random_weights"] else ""
    threads = f"{answer['threads']} thread{'s' if answer['threads'] > 1 else ''}"
    title = f"One forward pass of {answer['model']}{weights}, {answer['dtype']}, {threads}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("batch×seq", "contender"):
        table.add_column(name, no_wrap=True)
    for name in ("size", "ms", "ratio", "quartiles", "paper"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, after in zip(answer["rows"], [*answer["rows"][1:], None], strict=True):
        last = after is None or (row["batch"], row["sequence"]) != (after["batch"], after["sequence"])
        table.add_row(*_line(row), end_section=last)
    return table


def _line(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['batch']}×{row['sequence']}",
        row["contender"],
        str(row["size"] or "-"),
        f"{row['milliseconds']:,.1f}",
        f"{row['ratio']:.3f}",
        f"{row['ratio_low']:.3f}–{row['ratio_high']:.3f}",
        "-" if row["paper_ratio"] is None else f"{row['paper_ratio']:.3f}",
    ]


def _verdicts(answer: Answer) -> list[str]:
    yes = {True: "yes", False: "no", None: "not judged (too few rounds)"}
    attached, plain = yes[answer["merged_within_noise"]], yes[answer["deployed_within_noise"]]
    return [
        f"merged LoRA executes the base's operators: {yes[answer['merged_operations_equal']]}",
        f"merged LoRA is as fast as the base, within noise: {attached}; in plain modules: {plain}",
        "ratio: to the base of the same round; base-again: noise; paper: GPT-2 medium",
    ]


VERB = Verb(
    BenchConfig,
    run,
    show,
    example=(
        "loralab bench latency --model gpt2-medium --out out/latency\n"
        "loralab bench latency --model gpt2-medium --settings 32x512,16x256,1x128 \\\n"
        "  --batches 1,2,4,8,16,32 --sequences 128,256,512 --out out/figure-5"
    ),
)
