"""Every figure that prose quotes is that of a record: a JSON file of `docs/results`, from which the tables are made."""

import json
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from pages import DOCS, rows

REPOSITORY, RESULTS = DOCS.parent, DOCS / "results"
RECORDS: dict[str, Any] = {
    name: record
    for file in ("measured", "baselines", "claims", "learned", "fewer-blocks", "scaling")
    for name, record in json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8")).items()
}
NEIGHBOURS_JSON = json.loads((RESULTS / "neighbours" / "neighbours.json").read_text(encoding="utf-8"))
RATES = (RESULTS / "neighbours.md").read_text(encoding="utf-8").partition("What the learning rate does")[2]
RECORDS["rates-e2e"] = {"table": [["method", "rate", "× 0.3", "× 1", "× 3"], *rows(RATES.partition("e2e loss")[2])]}

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
    (README, "target token │ 3.701 │ 2.488", ["demo-64/loss/before", "demo-64/loss/after"]),
    (README, "of 100 │ 12.3 │ 27.9", ["", "demo-64/ROUGE/before", "demo-64/ROUGE/after"]),
    (README, "loss 3.70 → 2.47,", ["demo/loss/before", "demo/loss/after"]),
    (README, "ROUGE-L 12.2 → 27.6,", ["demo/ROUGE/before", "demo/ROUGE/after"]),
    (README, "an adapter of 0.94 MB", ["demo/stored/after"]),
    (
        README,
        "BLEU 64.2, NIST 8.25, ROUGE-L 67.1",
        ["e2e-test/Smol/BLEU", "e2e-test/Smol/NIST", "e2e-test/Smol/ROUGE-L"],
    ),
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
    (BASELINES, "reach 1.46", ["e2e-test/Smol/test loss"]),
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
        [*["mrpc-ranks/lora, r=1,/accuracy"] * 2, *["mrpc-ranks/lora, r=8/accuracy"] * 2, ""],
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
# The same of the pages of methods, by their names.
MRPC, COLA, E2E, RANKS = "mrpc-methods", "cola-methods", "e2e-methods", "mrpc-ranks"
FEW_LORA, FEW_PREFIX = "mrpc-few/lora, r=8", "mrpc-few/prefix-layer, 16+16 positions"
QUOTES_OF_METHODS = [
    ("lora", "had 75.6, $r = 8$ 74.7", [f"{RANKS}/lora, r=64/accuracy", "", f"{RANKS}/lora, r=8/accuracy"]),
    ("lora", "$r = 1$ 71.3", ["", f"{RANKS}/lora, r=1,/accuracy"]),
    ("lora", "78.9 to 75.3 with 0.3%", [f"{MRPC}/full/accuracy", f"{MRPC}/lora/accuracy", f"{MRPC}/lora/%"]),
    ("rslora", "(loss 1.49 against 1.56)", ["e2e/rslora/loss", "e2e/lora/loss"]),
    ("rslora", "(71.4 against 74.3)", ["mrpc/rslora/accuracy", "mrpc/lora/accuracy"]),
    ("lora-fa", "(E2E loss 1.72 against 1.56", ["", "e2e/lora-fa/loss", "e2e/lora/loss"]),
    ("lora-fa", "CoLA 7.6 against 12.5", ["cola/lora-fa/matthews", "cola/lora/matthews"]),
    ("dora", "(17.3 against 12.5)", ["cola/dora/matthews", "cola/lora/matthews"]),
    ("dora", "(76.1 against 74.3)", ["mrpc/dora/accuracy", "mrpc/lora/accuracy"]),
    ("dora", "1.06 to 1.13 of LoRA's time", ["e2e/dora/step", "cola/dora/step"]),
    ("pissa", "(E2E loss 1.58 against 1.56", ["", "e2e/pissa/loss", "e2e/lora/loss"]),
    ("pissa", "MRPC 73.8 against 74.3", ["mrpc/pissa/accuracy", "mrpc/lora/accuracy"]),
    ("vera", "(E2E loss 1.78 against 1.56", ["", "e2e/vera/loss", "e2e/lora/loss"]),
    ("vera", "(3.2 MB on MiniLM, LoRA 0.3)", ["cola/vera/stored", "cola/lora/stored"]),
    ("vera", "1.52 at three times its rate", ["rates-e2e/vera,/× 3"]),
    ("tied", "(loss 1.61 against 1.56", ["e2e/tied/loss", "e2e/lora/loss"]),
    ("multilora", "(18.2 ± 2.3 against", ["cola/multilora/matthews", "cola/multilora/matthews"]),
    ("multilora", "against 12.5 ± 6.8)", ["cola/lora/matthews", "cola/lora/matthews"]),
    ("multilora", "(75.8 against 74.3)", ["mrpc/multilora/accuracy", "mrpc/lora/accuracy"]),
    ("adamix", "(E2E loss 2.23 against 1.56)", ["", "e2e/adamix/loss", "e2e/lora/loss"]),
    ("adamix", "1.9 to 2.4 times LoRA's", ["cola/adamix/step", "e2e/adamix/step"]),
    ("adamix-adapter", "a loss of 1.97 after 60 steps", ["e2e/adamix-adapter/loss", "e2e/adamix-adapter/steps"]),
    ("adamix-adapter", "1.8 to 2.4 times LoRA's", ["cola/adamix-adapter/step", "e2e/adamix-adapter/step"]),
    ("lora-xs", "(loss 1.51 against 1.56", ["e2e/lora-xs/loss", "e2e/lora/loss"]),
    ("full", "(MRPC 78.9 against LoRA's 75.3", [f"{MRPC}/full/accuracy", f"{MRPC}/lora/accuracy"]),
    ("full", "E2E loss 1.41 against 1.56", ["", f"{E2E}/full/loss", f"{E2E}/lora/loss"]),
    ("full", "(538 MB for SmolLM2-135M, LoRA 1.9 MB)", ["e2e/full/stored", "", "", "e2e/lora/stored"]),
    ("full", "2.2 to 2.4 times LoRA's", ["cola/full/step", "e2e/full/step"]),
    ("top2", "70.3 against 75.3", [f"{MRPC}/top2/accuracy", f"{MRPC}/lora/accuracy"]),
    ("bitfit", "72.0 on MRPC (LoRA 75.3)", [f"{MRPC}/bitfit/accuracy", f"{MRPC}/lora/accuracy"]),
    ("bitfit", "rate (0.003 there)", [f"{MRPC}/bitfit/lr"]),
    ("prefix-layer", "(E2E loss 2.37", ["", f"{E2E}/prefix-layer/loss"]),
    ("prefix-layer", "where LoRA had 1.56", [f"{E2E}/lora/loss"]),
    ("prefix-layer", "64.4, LoRA 65.4", [f"{FEW_PREFIX}, 100/accuracy", f"{FEW_LORA}, 100/accuracy"]),
    ("prefix-layer", "70.0, LoRA 69.0", [f"{FEW_PREFIX}, 1,000/accuracy", f"{FEW_LORA}, 1,000/accuracy"]),
    ("adapter-h", "(74.3 against 75.3)", [f"{MRPC}/adapter-h/accuracy", f"{MRPC}/lora/accuracy"]),
    ("adapter-h", "(16.9 against 15.5", [f"{COLA}/adapter-h/matthews", f"{COLA}/lora/matthews"]),
    ("adapter-h", "1.155 times the base's", ["latency/Adapter-H/SmolLM2"]),
    ("adapter-l", "1.077 times the base's", ["latency/Adapter-L/SmolLM2"]),
    ("adapter-l", "(75.1 ± 3.9 against", [f"{MRPC}/adapter-l/accuracy"] * 2),
    ("adapter-l", "against 75.3 ± 2.4)", [f"{MRPC}/lora/accuracy"] * 2),
    ("adapter-l", "1.527 against 1.555", [f"{E2E}/adapter-l/loss", f"{E2E}/lora/loss"]),
    ("grass", "(loss 1.52; full 1.34, LoRA 1.56", ["e2e/grass/loss", "e2e/full/loss", "e2e/lora/loss"]),
    ("grass", "(4.2 GB against 5.0, LoRA 1.8)", ["e2e/grass/peak", "e2e/full/peak", "e2e/lora/peak"]),
    ("galore", "(loss 1.53; full 1.34, LoRA 1.56)", ["e2e/galore/loss", "e2e/full/loss", "e2e/lora/loss"]),
]  # fmt: skip
QUOTES += [(f"docs/methods/{name}.md", words, cells) for name, words, cells in QUOTES_OF_METHODS]
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"


@pytest.mark.parametrize("page, words, cells", QUOTES, ids=[f"{page}: {words}" for page, words, _ in QUOTES])
def test_a_quoted_figure_is_its_record_s(page: str, words: str, cells: list[str]) -> None:
    text = " ".join((REPOSITORY / page).read_text(encoding="utf-8").split())
    assert words in text, f"{page} no longer says {words!r}"
    figures = re.findall(NUMBER, re.sub(r"b?float\d+", "", words))
    assert len(figures) == len(cells)
    for figure, cell in zip(figures, cells, strict=True):
        assert not cell or figure in rounded(measured(cell), figure), f"{figure} of {words!r}: {measured(cell)}"


def test_the_neighbours_are_those_of_their_json() -> None:
    """Every mean and spread of the page's first table."""
    page = (REPOSITORY / NEIGHBOURS).read_text(encoding="utf-8")
    for task, metric in {"cola": "matthews", "mrpc": "accuracy", "rte": "accuracy", "e2e": "loss"}.items():
        for method, cell in NEIGHBOURS_JSON[task].items():
            row = next(line for line in page.splitlines() if line.startswith(f"| {method} |"))
            measured = cell["metrics"][metric]
            assert f"{measured['mean']:.2f} ± {measured['sd']:.2f}" in row, (task, method)


@pytest.mark.parametrize("record, file", [("serving", "serve.json"), ("serving-bfloat16", "serve-bfloat16.json")])
def test_the_ratios_of_serving_are_those_of_the_benchmark(record: str, file: str) -> None:
    ratios = json.loads((REPOSITORY / "benchmarks" / "results" / file).read_text(encoding="utf-8"))["ratios"]
    measured = {(f"{each['median']:.2f}", f"{each['least']:.2f}–{each['most']:.2f}") for each in ratios.values()}
    assert {tuple(row[1:]) for row in RECORDS[record]["table"][1:]} == measured
    assert len(measured) == len(ratios)


def test_the_steps_with_compiled_kernels_are_those_of_the_benchmark() -> None:
    steps = json.loads((REPOSITORY / "benchmarks/results/compiled.json").read_text(encoding="utf-8"))["steps"]
    assert RECORDS["compiled-kernels"]["table"][1:] == [
        [
            *(name, f"{each['eager']:.1f} ms", f"{each['compiled']:.1f} ms", f"{each['ratio']['median']:.2f}"),
            f"{each['ratio']['lowest']:.2f}–{each['ratio']['highest']:.2f}",
        ]
        for name, each in steps.items()
    ]


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "rates-e2e"])
def test_a_record_says_what_it_is_of(name: str) -> None:
    assert all(RECORDS[name][key] for key in ("what", "machine", "recorded", "command", "table"))


def test_ratios_are_those_of_the_figures_beside_them() -> None:
    for name in ("peft-xeon", "peft-epyc"):
        for row in RECORDS[name]["table"][1:]:
            ours, *theirs = [numbers(cell) for cell in row[1:]]
            for figure, ratio in theirs:
                assert ours[0] / figure == pytest.approx(ratio, abs=0.06 if ratio > 1 else 0.006)
    for row in RECORDS["decoding"]["table"][1:3]:
        own, before, ratio = [numbers(cell)[0] for cell in row[1:]]
        assert before / own == pytest.approx(ratio, abs=0.006)
    for row in RECORDS["full"]["table"][1:]:
        lora, full, ratio = [numbers(cell)[0] for cell in row[1:4]]
        assert lora / full == pytest.approx(ratio, abs=0.006)


def measured(address: str) -> list[float]:
    """The figures of a cell, a mean and its spread or one: record/beginning of a row/beginning of a column, or
    task/method/metric of `neighbours.json`."""
    record, row, column = address.split("/")
    if record not in NEIGHBOURS_JSON:
        return numbers(cell_of(RECORDS[record]["table"], row, column))
    found = NEIGHBOURS_JSON[record][row]
    if column in ("peak", "stored"):
        return [found["peak_memory_bytes"] / 1e9 if column == "peak" else found["stored_bytes"] / 1e6]
    value = found["metrics"].get(column, found.get(column))
    return [value["mean"], value["sd"]] if isinstance(value, dict) else [value]


def cell_of(table: Sequence[Sequence[str]], row: str, column: str) -> str:
    """A cell by the beginning of its row, whose cells are joined by commas, and of its column's name."""
    head, *others = table
    found = [each for each in others if f"{', '.join(each)},".startswith(row)]
    assert len(found) == 1, f"{len(found)} rows begin with {row!r}"
    return found[0][next(index for index, name in enumerate(head) if name.startswith(column))]


def numbers(cell: str) -> list[float]:
    return [float(each.replace(",", "")) for each in re.findall(NUMBER, cell)]


def rounded(values: list[float], like: str) -> set[str]:
    """The values with as many decimals as a figure has."""
    step = Decimal(1).scaleb(-len(like.partition(".")[2]))
    return {f"{Decimal(repr(value)).quantize(step, ROUND_HALF_UP):,}" for value in values}
