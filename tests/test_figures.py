"""Every figure that prose quotes is that of a record: a JSON file of `docs/results`, from which the tables are made."""

import json
import re
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs" / "results"
RECORDS = {
    name: record
    for file in ("measured", "baselines", "learned", "fewer-blocks")
    for name, record in json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8")).items()
}
README = "README.md"
BASELINES, NEIGHBOURS = "docs/results/baselines.md", "docs/results/neighbours.md"
LEARNED, FEWER = "docs/results/what-lora-learned.md", "docs/results/deeper-layers-and-linearity.md"

# A page, words of it, and for each figure in them the record's cell: its name, the row's beginning, the column.
QUOTES = [
    (
        README,
        "in bfloat16 | 2.2 to 5.4× the tokens a second, 0.46 to 0.63× the memory",
        [
            "peft-epyc/training/PEFT 0.21",
            "peft-xeon/training/PEFT 0.21",
            "peft-epyc/peak/PEFT 0.21",
            "peft-xeon/peak/PEFT 0.21",
        ],
    ),
    (
        README,
        "in float32 | 1.6 to 3.2× the tokens a second, 0.39 to 0.59× the memory",
        [
            "peft-xeon/training/PEFT + Trainer, f",
            "peft-epyc/training/PEFT + Trainer, f",
            "peft-epyc/peak/PEFT + Trainer, f",
            "peft-xeon/peak/PEFT + Trainer, f",
        ],
    ),
    (README, "1.95× the tokens a second, 0.34× the memory", ["full/tokens/ratio", "full/peak/ratio"]),
    (README, "1.001 merged, 1.059 live", ["latency/LoRA merged/SmolLM2", "latency/LoRA live/SmolLM2"]),
    (README, "loss 3.70 → 2.47,", ["demo/loss/before", "demo/loss/after"]),
    (README, "ROUGE-L 12.2 → 27.6,", ["demo/ROUGE/before", "demo/ROUGE/after"]),
    (README, "an adapter of 0.94 MB", ["demo/stored/after"]),
    (README, "BLEU 64.2, NIST 8.25, ROUGE-L 67.1", ["e2e/Smol/BLEU", "e2e/Smol/NIST", "e2e/Smol/ROUGE-L"]),
    (BASELINES, "1.95× as fast, 0.34× the memory", ["full/tokens/ratio", "full/peak/ratio"]),
    (
        BASELINES,
        "75.3 ± 2.4 against 78.9 ± 0.25, on CoLA 15.5 ± 6.9 against 25.2 ± 3.3",
        [
            *["mrpc-methods/lora/accuracy"] * 2,
            *["mrpc-methods/full/accuracy"] * 2,
            *["cola-methods/lora/matthews"] * 2,
            *["cola-methods/full/matthews"] * 2,
        ],
    ),
    (
        BASELINES,
        "(70.3, 16% of the parameters), of BitFit (72.0; 0 on CoLA",
        [
            "mrpc-methods/top2/accuracy",
            "mrpc-methods/top2/%",
            "mrpc-methods/bitfit/accuracy",
            "cola-methods/bitfit/matthews",
        ],
    ),
    (
        BASELINES,
        "(74.3 and 75.1; CoLA 16.9)",
        ["mrpc-methods/adapter-h/accuracy", "mrpc-methods/adapter-l/accuracy", "cola-methods/adapter-h/matthews"],
    ),
    (BASELINES, "loss of 1.56 after", ["e2e-methods/lora/loss"]),
    (
        BASELINES,
        "1.41, on docstrings 3.04 against 2.98;",
        ["e2e-methods/full/loss", "docstrings-methods/lora/loss", "docstrings-methods/full/loss"],
    ),
    (BASELINES, "reach 1.46", ["e2e/Smol/test loss"]),
    (
        BASELINES,
        "74.7 against 70.1 (q) and 70.0 (k)",
        ["mrpc-matrices/lora, r=8/accuracy", "mrpc-matrices/lora, r=16, q,/acc", "mrpc-matrices/lora, r=16, k,/acc"],
    ),
    (
        BASELINES,
        "(71.3 ± 3.4 against 75.6 ± 0.9 with",
        [*["mrpc-ranks/lora, r=1,/accuracy"] * 2, *["mrpc-ranks/lora, r=64/accuracy"] * 2],
    ),
    (
        BASELINES,
        "(69.5 and 74.8; LoRA 65.4 and 69.0, prefix layers 64.4 and 70.0)",
        [
            f"mrpc-few/{method}, {examples},/accuracy"
            for method in ("full, -", "lora, r=8", "prefix-layer, 16+16 positions")
            for examples in ("100", "1,000")
        ],
    ),
    (
        LEARNED,
        "71.3 ± 3.4 against 74.7 ± 0.6 with r=8",
        [*["mrpc-ranks/lora, r=1,/accuracy"] * 2, *["mrpc-ranks/lora, r=8/accuracy"] * 2, None],
    ),
    (
        FEWER,
        "25.7 to 13.7. But the text",
        ["prune-similar/after/perplexity", "prune-similar/healed on text/perplexity"],
    ),
    (FEWER, "4,634 to 25.7.", ["prune-deepest/after/perplexity", "prune-similar/after/perplexity"]),
    (FEWER, "perplexity 12.2 to 28.3", ["linearize/before/perplexity", "linearize/dropped/perplexity"]),
    (FEWER, "nearly: 12.2 to 14.7", ["linearize/before/perplexity", "linearize/replaced/perplexity"]),
    (FEWER, "ROUGE-L 12.9 to 9.1", ["linearize/before/ROUGE-L", "linearize/replaced/ROUGE-L"]),
    (
        FEWER,
        "comes out at a perplexity of 14.1, healing on text with",
        ["linearize-15-18/distilled/perplexity"],
    ),
]
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"


@pytest.mark.parametrize("page, words, cells", QUOTES, ids=[f"{page}: {words}" for page, words, _ in QUOTES])
def test_a_quoted_figure_is_its_record_s(page: str, words: str, cells: list[str | None]) -> None:
    text = " ".join((REPOSITORY / page).read_text(encoding="utf-8").split())
    assert words in text, f"{page} no longer says {words!r}"
    quoted = re.findall(NUMBER, re.sub(r"float\d+|bfloat\d+|r=\d+ \w+", " ", words))
    assert len(quoted) == len(cells)
    for figure, cell in zip(quoted, cells, strict=True):
        if cell is not None:
            assert figure in _rounded(cell, figure), f"{figure} of {words!r} is {_cell(cell)!r} in the record"


def test_the_neighbours_are_those_of_their_json() -> None:
    """Every mean and spread of the page's first table."""
    page = (REPOSITORY / NEIGHBOURS).read_text(encoding="utf-8")
    recorded = json.loads((RESULTS / "neighbours" / "neighbours.json").read_text(encoding="utf-8"))
    for task, metric in {"cola": "matthews", "mrpc": "accuracy", "rte": "accuracy", "e2e": "loss"}.items():
        for method, cell in recorded[task].items():
            row = next(line for line in page.splitlines() if line.startswith(f"| {method} |"))
            measured = cell["metrics"][metric]
            assert f"{measured['mean']:.2f} ± {measured['sd']:.2f}" in row, (task, method)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_what_it_is_of(name: str) -> None:
    assert all(RECORDS[name][key] for key in ("what", "machine", "recorded", "command", "table"))


def test_ratios_are_those_of_the_figures_beside_them() -> None:
    for name in ("peft-xeon", "peft-epyc"):
        for row in RECORDS[name]["table"][1:]:
            ours, *theirs = [[_number(each) for each in re.findall(NUMBER, cell)] for cell in row[1:]]
            for measured, ratio in theirs:
                assert ours[0] / measured == pytest.approx(ratio, abs=0.06 if ratio > 1 else 0.006)
    for row in RECORDS["full"]["table"][1:]:
        lora, full, ratio = [_number(re.findall(NUMBER, cell)[0]) for cell in row[1:4]]
        assert lora / full == pytest.approx(ratio, abs=0.006)


def _cell(address: str) -> str:
    """The text of a cell: `record/beginning of a row/beginning of a column`. A row is its cells with commas."""
    name, row, column = address.split("/")
    head, *rows = RECORDS[name]["table"]
    found = [each for each in rows if ", ".join(each).startswith(row)]
    at = [index for index, title in enumerate(head) if title.startswith(column)]
    assert len(found) == 1, f"{address}: {len(found)} rows"
    assert at, f"{address}: no such column"
    return str(found[0][at[0]])


def _rounded(address: str, like: str) -> Iterator[str]:
    """The numbers of a cell with as many decimals as `like` has."""
    step = Decimal(1).scaleb(-len(like.partition(".")[2]))
    numbers = (Decimal(each.replace(",", "")) for each in re.findall(NUMBER, _cell(address)))
    return (f"{number.quantize(step, ROUND_HALF_UP):,}" for number in numbers)


def _number(text: str) -> float:
    return float(text.replace(",", ""))
