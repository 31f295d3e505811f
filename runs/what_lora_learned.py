"""The paper's §7 on this machine's models: two ranks and two seeds of LoRA, and what they learned.

    python runs/what_lora_learned.py smollm2 out/learned --data ../shared/data/e2e
    python runs/what_lora_learned.py minilm out/learned --data ../shared/data/glue

Trains LoRA on q and v with a small rank and r = 64, two seeds each (SmolLM2: r = 4, 60 steps on E2E; MiniLM: r = 8, two
epochs of MRPC). Then it compares their subspaces (Figures 3, 4 and 8), measures amplification (Table 7) and spectra,
looks for the rank that was enough, switches parts off (Tables 5 and 6), measures what was forgotten, and writes one
page. Finished trainings are not repeated. A training takes two to three minutes on one core, an analysis of adapters
seconds; `rank` and `matrices` measure the task again and again. On two cores with three such processes on them one
thread each took 21 minutes for SmolLM2 and 16 for MiniLM. The findings are in
docs/results/what-lora-learned.md.
"""

import argparse
import subprocess
import sys
from pathlib import Path

MODELS = {
    "smollm2": {
        "--model": "smollm2-135m", "--task": "e2e", "--steps": "60", "--batch-size": "8", "--max-length": "256",
        "--eval-limit": "256",
    },
    "minilm": {
        "--model": "minilm-l6", "--task": "glue/mrpc", "--epochs": "2", "--batch-size": "16", "--max-length": "128",
        "--eval-limit": "100000", "--best-metric": "accuracy",
    },
}  # fmt: skip
MEASURED = {
    "smollm2": {"--limit": "64", "--metric": "loss"},
    "minilm": {"--limit": "408", "--metric": "accuracy"},
}
SMALL = {"smollm2": 4, "minilm": 8}
"""The rank beside 64: that of the baselines' comparisons."""
TRAINED = {"--methods": "lora", "--seeds": "1,2", "--targets": "q,v", "--lr": "1e-3"}


def main() -> None:
    """Train, analyse, and write the page of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True, help="the task's official files")
    parser.add_argument("--threads", help="CPU threads of a training instead of all")
    arguments = parser.parse_args()
    flags = MODELS[arguments.model] | {"--data": arguments.data, "--save-every": "0"}
    out = arguments.out / arguments.model
    rank = SMALL[arguments.model]
    ranks = {"--ranks": f"{rank},64", "--out": out / "trained", "--threads": arguments.threads}
    loralab("compare", **flags, **TRAINED, **ranks)
    cells = out / "trained/cells"
    small, large, other_seed = (
        cells / f"lora-r{name}" for name in (f"{rank}-q-v-seed-1", "64-q-v-seed-1", "64-q-v-seed-2")
    )
    measured: dict[str, object] = {key: flags[key] for key in ("--model", "--task", "--data")}
    base = {"--model": flags["--model"]}
    analyse("subspace", small, large, **{"--out": out / "ranks"})
    analyse("subspace", large, other_seed, **{"--out": out / "seeds"})
    for name, adapter in ((f"r{rank}", small), ("r64", large)):
        analyse("spectrum", adapter, **{"--out": out / f"spectrum-{name}"})
        analyse("amplification", adapter, **base, **{"--out": out / f"amplification-{name}"})
    analyse("subspace", small, **base, **{"--out": out / "base"})
    measured |= {"--adapter": small}
    analyse("rank", **measured, **MEASURED[arguments.model], **{"--out": out / "rank"})
    analyse("matrices", **measured, **MEASURED[arguments.model], **{"--out": out / "matrices"})
    if arguments.model == "smollm2":
        analyse("forgetting", **measured, **{"--limit": 64, "--out": out / "forgetting"})
    analyse("report", out, **{"--out": out / "report.html", "--title": f"What LoRA learned: {arguments.model}"})


def analyse(*words: object, **flags: object) -> None:
    """One analysis, in place of that of an earlier call."""
    loralab("analyse", *words, "--overwrite", **flags)


def loralab(*words: object, **flags: object) -> None:
    """One command of loralab; its failure ends this script."""
    given = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
    status = subprocess.run([sys.executable, "-m", "loralab", *map(str, words), *given]).returncode
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
