"""The pictures of docs/results/baselines.md, drawn from the tables of baselines.json as `compare` draws its own.

    python runs/draw_baselines.py

Takes a few seconds; to be called when the tables have changed, or the way that comparisons are drawn.
"""

import json
import re
import tempfile
from pathlib import Path

from loralab.experiments.comparison.plots import draw_comparison
from loralab.experiments.comparison.rows import Row, Spread

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PICTURES = RESULTS / "baselines"


def main() -> None:
    """Draw every picture that the page shows."""
    shown = re.findall(r"\(baselines/(\S+\.png)\)", (RESULTS / "baselines.md").read_text(encoding="utf-8"))
    records = json.loads((RESULTS / "baselines.json").read_text(encoding="utf-8"))
    for name, record in records.items():
        head, *lines = record["table"]
        rows = [row(dict(zip(head, line, strict=True))) for line in lines]
        with tempfile.TemporaryDirectory() as folder:
            for drawn in draw_comparison(rows, None, Path(folder), record["what"]):
                if f"{name}-{drawn.name}" in shown:
                    (PICTURES / f"{name}-{drawn.name}").write_bytes(drawn.read_bytes())


def row(cells: dict[str, str]) -> Row:
    """A line of a table as what it was made from."""
    rank = re.match(r"r=(\d+)(?:, (.+))?", cells["setting"])
    prefix = re.match(r"(\d+)\+(\d+) positions", cells["setting"])
    return Row(
        method=cells["method"],
        rank=int(rank[1]) if rank else None,
        targets=rank[2] if rank else None,
        prefix=int(prefix[1]) if prefix else None,
        infix=int(prefix[2]) if prefix else None,
        train_examples=None if cells["examples"] == "all" else number(cells["examples"]),
        lr=float(cells["lr"]),
        trainable_params=number(cells["trained"]),
        metrics={name: spread(text, number(cells["seeds"])) for name, text in cells.items() if "±" in text},
        seeds=tuple(range(1, number(cells["seeds"]) + 1)),
    )


def number(text: str) -> int:
    """A count with its thousands separated."""
    return int(text.replace(",", ""))


def spread(text: str, seeds: int) -> Spread:
    """Of a mean and its deviation, which is all that pictures show."""
    mean, deviation = (float(each.replace(",", "")) for each in text.split(" ± "))
    return Spread(mean, mean, deviation, seeds, ())


if __name__ == "__main__":
    main()
