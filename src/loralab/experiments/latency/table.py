"""latency.md: the table of a latency measurement in Markdown, and what it shows, in sentences."""

from loralab.experiments.comparison.table import markdown_table
from loralab.experiments.latency.contenders import LORA_DEPLOYED, LORA_MERGED
from loralab.experiments.latency.rows import ROUNDS_TO_JUDGE, WHERE, Latency, Timing

TIMES = ("batch", "sequence", "contender", "size", "parameters", "ms", "ratio (quartiles)", "paper")
TOO_FEW = f"not judged, which takes {ROUNDS_TO_JUDGE} rounds"


def markdown(latency: Latency) -> str:
    """The whole file."""
    parts = [
        f"# Latency of one forward pass: {latency.model}",
        _what_it_is(latency),
        "\n".join(f"- {sentence}" for sentence in findings(latency)),
        markdown_table(TIMES, [_time(row) for row in latency.rows]),
        f"## Operators of one pass at {latency.operators_at}",
        _operators(latency),
    ]
    return "\n\n".join(parts) + "\n"


def findings(latency: Latency) -> list[str]:
    """What the measurement says of merged LoRA."""
    return [
        *_unexplained(latency),
        "Merged LoRA executes the operators of the base, on tensors of the same shapes, strides and dtypes: "
        f"**{_yes(latency.merged_operations_equal)}**.",
        "The time of merged LoRA is that of the base within noise, still attached (`lora-merged`): "
        f"**{_yes(latency.merged_within_noise)}**{_except(latency, 'merged_within')}; in plain modules "
        f"(`lora-deployed`): **{_yes(latency.deployed_within_noise)}**{_except(latency, 'deployed_within')}.",
    ]


def _unexplained(latency: Latency) -> list[str]:
    """Where equal operators took other times: what else the machine did is measured then, and not LoRA."""
    merged = (LORA_MERGED, LORA_DEPLOYED)
    outside = [row for row in latency.rows if row.contender in merged and row.beyond_noise]
    if not outside or not latency.merged_operations_equal:
        return []
    cells = ", ".join(f"{row.contender} {slow_down_text(row)}% at {row.batch}x{row.sequence}" for row in outside)
    return [
        f"Outside of the noise although the operators are the base's own: {cells}. That is what else "
        "the machine did meanwhile, not LoRA: measure again with more rounds on a quiet machine."
    ]


def slow_down_text(row: Timing) -> str:
    """In per cent of the base's time, one digit behind the point; a zero has no sign."""
    text = f"{100 * (row.ratio - 1):+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def ratio_text(row: Timing) -> str:
    """`1.034 (1.029–1.041)`, and whether it is noise."""
    noise = ", noise" if row.beyond_noise is False else ""
    return f"{row.ratio:.3f} ({row.ratio_low:.3f}–{row.ratio_high:.3f}){noise}"


def _what_it_is(latency: Latency) -> str:
    machine = latency.machine
    weights = " The weights are random: latency does not depend on their values." if latency.random_weights else ""
    return (
        f"{latency.dtype}, {machine.threads_text} of {machine.processor}, torch {machine.torch}; load average "
        f"{machine.load:.1f} when it began. All contenders are one model object, measured in turn in {latency.rounds} "
        f"rounds, each in another order, one untimed pass and the median of {latency.repeats}. A ratio is time over "
        "the base's of the same round: its median and quartiles over the rounds. `base-again` is the base a second "
        f"time: a ratio whose quartiles overlap its quartiles is marked as noise. The paper's ratios are of "
        f"{WHERE}, for the size nearest to what its adapters train.{weights}"
    )


def _time(row: Timing) -> list[str]:
    return [
        str(row.batch),
        str(row.sequence),
        row.contender,
        str(row.size) if row.size else "-",
        f"{row.parameters:,}" if row.parameters else "-",
        f"{row.milliseconds:,.1f}",
        ratio_text(row),
        "-" if row.paper_ratio is None else f"{row.paper_ratio:.3f}",
    ]


def _operators(latency: Latency) -> str:
    head = ["contender", "operators", "that the base has not", "extra MFLOPs", "the base's sequence"]
    rows = [
        [name, str(each.operators), str(each.extra_operators), f"{each.extra_flops / 1e6:,.1f}", _yes(each.equal)]
        for name, each in latency.operators.items()
    ]
    return markdown_table(head, rows)


def _except(latency: Latency, which: str) -> str:
    outside = [f"{each.batch}x{each.sequence}" for each in latency.noise if getattr(each, which) is False]
    return f" (not at {', '.join(outside)})" if outside else ""


def _yes(truth: bool | None) -> str:
    return {True: "yes", False: "no", None: TOO_FEW}[truth]
