"""Every measured figure on the pages of methods is that of a record in docs/results."""

import json
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

import pytest

from pages import DOCS, rows

RESULTS = DOCS / "results"
NEIGHBOURS = json.loads((RESULTS / "neighbours" / "neighbours.json").read_text(encoding="utf-8"))
RECORDS = {
    name: record["table"]
    for file in ("baselines", "measured")
    for name, record in json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8")).items()
}
RATES = (RESULTS / "neighbours.md").read_text(encoding="utf-8").partition("What the learning rate does")[2]
RECORDS["rates-e2e"] = [["method", "rate", "× 0.3", "× 1", "× 3"], *rows(RATES.partition("e2e loss")[2])]
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"

MRPC, COLA, E2E, RANKS = "mrpc-methods", "cola-methods", "e2e-methods", "mrpc-ranks"
FEW_LORA, FEW_PREFIX = "mrpc-few/lora, r=8", "mrpc-few/prefix-layer, 16+16 positions"

# A page, words of it, and for each figure in them its record's cell: task/method/metric of neighbours.json,
# record/beginning of a row/beginning of a column of the others.
QUOTES: list[tuple[str, str, list[str]]] = [
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


@pytest.mark.parametrize("page, words, cells", QUOTES, ids=[f"{page}: {words}" for page, words, _ in QUOTES])
def test_a_quoted_figure_is_the_measured_one(page: str, words: str, cells: list[str]) -> None:
    text = " ".join((DOCS / "methods" / f"{page}.md").read_text(encoding="utf-8").split())
    assert words in text, f"{page}.md no longer says {words!r}"
    figures = re.findall(NUMBER, words)
    assert len(figures) == len(cells)
    for figure, cell in zip(figures, cells, strict=True):
        assert not cell or figure in rounded(measured(cell), figure), f"{figure} of {words!r}: {measured(cell)}"


def measured(address: str) -> list[float]:
    """The figures of a cell: a mean and its spread, or one."""
    record, row, column = address.split("/")
    if record not in NEIGHBOURS:
        return numbers(cell_of(RECORDS[record], row, column))
    found = NEIGHBOURS[record][row]
    if column in ("peak", "stored"):
        return [found["peak_memory_bytes"] / 1e9 if column == "peak" else found["stored_bytes"] / 1e6]
    value = found["metrics"].get(column, found.get(column))
    return [value["mean"], value["sd"]] if isinstance(value, dict) else [value]


def cell_of(table: Sequence[Sequence[str]], row: str, column: str) -> str:
    """A cell by the beginning of its row, whose cells are joined by commas, and of its column's name."""
    head, *others = table
    found = next(each for each in others if f"{', '.join(each)},".startswith(row))
    return found[next(index for index, name in enumerate(head) if name.startswith(column))]


def numbers(cell: str) -> list[float]:
    return [float(each.replace(",", "")) for each in re.findall(NUMBER, cell)]


def rounded(values: list[float], like: str) -> set[str]:
    """The values with as many decimals as a figure has."""
    step = Decimal(1).scaleb(-len(like.partition(".")[2]))
    return {f"{Decimal(repr(value)).quantize(step, ROUND_HALF_UP):,}" for value in values}
