"""Your Transformer is Secretly Linear (arXiv 2405.12250) on SmolLM2-135M: linearize blocks, then distil.

    python runs/linearize_distil.py out/neighbours/linearize-distil --threads 1
    python runs/linearize_distil.py OUT --blocks auto:4     the most linear ones without their residual
    python runs/linearize_distil.py OUT --blocks 15-18      those that prune_heal.py drops

Scores how linear every block is, without the first token of a text, whose state would decide the score alone. Puts one
fitted affine map in the place of each run of the chosen blocks: 3-5 and 15, the four most linear of the stream as a
whole, as the paper scores them, but for the last block, which its code leaves out too. Trains the maps to follow the
whole model (`--distill`: divergence of the next-token distributions, and the states' errors). Before, with the blocks
dropped, replaced by the maps, and distilled, it measures perplexity on held-out text (Python's standard library), and
loss and ROUGE-L on docstrings. Writes 3-5-15-60.md (blocks and steps) beside the folders of the two commands, whose
linearity.json, linearize.json and pictures have everything. A finished step is not repeated. On one thread: 10 minutes
of processor time, which were 14 on two cores with five processes on them.

The paper (abstract): the stream after a block is nearly a linear map of the one before, by 0.99, in GPT, LLaMA, OPT and
BLOOM; less so without the residual connection; removing the most linear blocks or replacing them by linear maps hardly
changes the loss; it distils with a sum of per-layer MSEs beside the loss. The tables and what holds here are in
docs/results/deeper-layers-and-linearity.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from loralab.files.whole import write_text

MODEL = "smollm2-135m"
STATES = ("before", "dropped", "replaced", "distilled")


def main() -> None:
    """Score, replace and distil, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--blocks", default="3-5,15", help="auto:K, or numbers from 0, as 6-8 or 3,6-8")
    parser.add_argument("--steps", type=int, default=60, help="steps of the distillation")
    parser.add_argument("--lr", default="1e-3", help="its learning rate")
    parser.add_argument("--limit", type=int, default=64, help="examples of docstrings to measure on")
    parser.add_argument("--threads", type=int, help="CPU threads instead of all")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {} if arguments.threads is None else {"OMP_NUM_THREADS": str(arguments.threads)}
    clouds = {"--model": MODEL, "--chunks": 160, "--heldout": 0.1}
    scores = out / "linearity"
    step(scores / "linearity.json", "linearity", "--skip-first-token", **clouds, **{"--out": scores})
    folder = out / f"{arguments.blocks.replace(':', '-').replace(',', '-')}-{arguments.steps}"
    distilling = {"--distill": arguments.steps, "--distill-lr": arguments.lr, "--distill-batch": 2}
    measuring = {"--pieces": 32, "--limit": arguments.limit, "--max-new-tokens": 32}
    chosen = {"--blocks": arguments.blocks, "--from": scores / "linearity.json", "--out": folder}
    step(folder / "linearize.json", "linearize", **clouds, **chosen, **distilling, **measuring)
    write(out / f"{folder.name}.md", json.loads((folder / "linearize.json").read_text(encoding="utf-8")))


def step(done: Path, *words: object, **flags: object) -> None:
    """One analysis unless its answer is there; its failure ends this script."""
    if done.exists():
        print(f"there already: {done}", file=sys.stderr)
        return
    start = time.perf_counter()
    given = [str(word) for pair in flags.items() for word in pair]
    status = subprocess.run([sys.executable, "-m", "loralab", "analyse", *map(str, words), *given]).returncode
    if status:
        raise SystemExit(status)
    print(f"{done}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def write(table: Path, answer: dict[str, Any]) -> None:
    """The table of what linearize.json says."""
    distillation = answer["distillation"]
    lines = [
        f"{MODEL}, affine maps for blocks {', '.join(each['blocks'] for each in answer['runs'])} (counted from 0); "
        f"{distillation['steps']} steps of distillation",
        "",
        "| state | parameters | perplexity | docstrings: loss | ROUGE-L |",
        "|---|---|---|---|---|",
    ]
    for name in STATES:
        each = answer[name]
        size = "" if name == "dropped" else answer["parameters_before" if name == "before" else "parameters_after"]
        shown = f"{size / 1e6:.1f} M" if size else "-"
        rouge = each["metrics"]["rouge_l"]
        lines.append(f"| {name} | {shown} | {each['perplexity']:.2f} | {each['task_loss']:.3f} | {rouge:.1f} |")
    before, after = distillation["before"], distillation["after"]
    lines += [
        "",
        f"From the whole model, on held-out text: divergence {before['divergence']:.3f} -> {after['divergence']:.3f} "
        f"nats a token, states' errors {before['states']:.2f} -> {after['states']:.2f}.",
    ]
    write_text(table, "\n".join(lines) + "\n")
    print(table.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
