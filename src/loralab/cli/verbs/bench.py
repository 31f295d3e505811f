"""`loralab bench`: what is measured on this machine, as ratios: latency (the paper's Table 1 and Figure 5), serving."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from loralab.cli.flags import WritesFolder
from loralab.cli.opening import say
from loralab.cli.showing import show_files, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import FilesAmong, writing
from loralab.experiments.latency.config import LatencyConfig

FILES = FilesAmong(("latency.json", "latency.md", "latency.png"))


@dataclass(frozen=True, kw_only=True)
class BenchConfig(LatencyConfig, WritesFolder):
    """The flags of `loralab bench`."""

    bench: Literal["latency", "serve"] = field(metadata={"positional": True})
    """What to measure: latency, one forward pass of the base, of LoRA merged and live, and of bottleneck adapters;
    serve, many requests at once, each with its own adapter, beside transformers' generate and PEFT."""

    requests: int = field(default=16, metadata={"group": "serve"})
    """Requests that are answered at once."""

    adapter_rank: int = field(default=8, metadata={"group": "serve"})
    """Rank of their adapters, on q, k, v and o."""

    prompt_tokens: int = field(default=32, metadata={"group": "serve"})
    """Tokens of each prompt."""

    new_tokens: int = field(default=64, metadata={"group": "serve"})
    """Tokens of each answer."""

    registered: int = field(default=1000, metadata={"group": "serve"})
    """Adapters in the folder from which some of the requests' come; 0 leaves this out."""

    compile: bool | Literal["no", "both"] = field(default=True, metadata={"group": "serve"})
    """Compile what lies between a step's products, where there is a C++ compiler. no: don't; both: measure both."""


def run(config: BenchConfig) -> Answer:
    """Measure; how it goes is said on stderr."""
    if config.bench == "serve":
        return _serve(config)
    from loralab.experiments.latency.measure import measure_latency
    from loralab.experiments.latency.rows import as_answer

    with writing(config.out, FILES, overwrite=config.overwrite):
        return as_answer(measure_latency(config, lambda sentence: say([sentence])))


def _serve(config: BenchConfig) -> Answer:
    from loralab.experiments.serving.config import ServingConfig
    from loralab.experiments.serving.measure import measure_serving

    values = {each.name: getattr(config, each.name) for each in fields(ServingConfig)}
    return measure_serving(ServingConfig(**values), lambda sentence: say([sentence]))


def show(answer: Answer) -> None:
    """The table of what was measured."""
    if "contenders" in answer:
        _show_serving(answer)
    else:
        _show_latency(answer)


def _show_serving(answer: Answer) -> None:
    """Tokens a second of everybody, then the ratios beside what is asked of them."""
    title = f"{answer['requests']} requests, {answer['model']}, {answer['dtype']}, {answer['threads']} threads"
    show_table(title, ("contender", "tokens/s", "first token, s"), _answered(answer["contenders"]))
    asked = "ratio, over rounds", "median", "range", "asked", "met"
    show_table("", asked, [_ratio(each) for each in answer["ratios"].values()])
    show_lines(answer["how"])
    show_files(answer["files"])


def _answered(contenders: dict[str, dict[str, float | None]]) -> Iterator[list[str]]:
    for name, each in contenders.items():
        first = each["first_token_seconds"]
        yield [name, f"{each['tokens_per_second']:,.1f}", "-" if first is None else f"{first:.2f}"]


def _ratio(ratio: dict[str, Any]) -> list[str]:
    sign = "≤" if ratio["name"].startswith("first_token") else "≥"
    spread = f"{ratio['least']:.2f}–{ratio['most']:.2f}"
    words = ratio["name"].replace("_", " ")
    return [words, f"{ratio['median']:.2f}", spread, f"{sign} {ratio['asked']:g}", "yes" if ratio["met"] else "no"]


def _show_latency(answer: Answer) -> None:
    """The table beside the paper's, and the verdicts on merged LoRA."""
    weights = ", random weights" if answer["random_weights"] else ""
    threads = f"{answer['threads']} thread{'s' if answer['threads'] > 1 else ''}"
    title = f"One forward pass of {answer['model']}{weights}, {answer['dtype']}, {threads}"
    columns = ("batch×seq", "contender", "size", "ms", "ratio", "quartiles", "paper")
    show_table(title, columns, _lines(answer["rows"]), words=2)
    show_lines(*_verdicts(answer))
    show_files(answer["files"])


def _lines(rows: list[dict[str, Any]]) -> Iterator[list[str] | None]:
    """A line for each contender, and one across between the sizes of the input."""
    size = None
    for row in rows:
        if size not in (None, (row["batch"], row["sequence"])):
            yield None
        size = (row["batch"], row["sequence"])
        yield _line(row)


def _line(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['batch']}×{row['sequence']}",
        row["contender"],
        str(row["size"] or "-"),
        f"{row['milliseconds']:,.1f}",
        f"{row['ratio']:.3f}{' ≈' if row['beyond_noise'] is False else ''}",
        f"{row['ratio_low']:.3f}–{row['ratio_high']:.3f}",
        "-" if row["paper_ratio"] is None else f"{row['paper_ratio']:.3f}",
    ]


def _verdicts(answer: Answer) -> list[str]:
    yes = {True: "yes", False: "no", None: "not judged (too few rounds)"}
    attached, plain = yes[answer["merged_within_noise"]], yes[answer["deployed_within_noise"]]
    return [
        f"merged LoRA executes the base's operators: {yes[answer['merged_operations_equal']]}",
        f"merged LoRA is as fast as the base, within noise: {attached}; in plain modules: {plain}",
        "ratio: to the base of the same round; ≈: within the noise, which is base-again; paper: GPT-2 medium",
    ]


VERB = Verb(
    BenchConfig,
    run,
    show,
    example=(
        "loralab bench latency --model gpt2-medium --out out/latency\n"
        "loralab bench latency --model gpt2-medium --settings 32x512,16x256,1x128 \\\n"
        "  --batches 1,2,4,8,16,32 --sequences 128,256,512 --out out/figure-5\n"
        "loralab bench serve --model smollm2-135m --out out/serve"
    ),
    needs=("plots",),
)
