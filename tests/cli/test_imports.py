"""What the verbs that need no model load: seconds of a start are in what is imported, and that can be held exactly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import loralab as ll
from small_models import llama
from tiny import write_llama, write_pairs
from toys import give_effect

UNUSED = ("nltk", "sklearn", "pandas", "datasets")
"""What neither a training nor a generation has a use for."""

SLOW = ("transformers.modeling_utils", "transformers.generation", "torch._dynamo", *UNUSED)
"""With what of transformers defines models, and brings the rest along; each takes a second or more."""

SCRIPT = f"""
import sys
from loralab.cli.main import main
status = main()
print([name for name in {SLOW} if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""


def loaded_by(*arguments: object) -> str:
    """The slow modules that a verb has loaded by its end."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def test_a_training_and_a_generation_load_nothing_that_they_do_not_use(tmp_path: Path) -> None:
    model, data = write_llama(tmp_path / "model"), write_pairs(tmp_path / "data")
    out = ["--out", tmp_path / "out", "--steps", 1, "--eval-limit", 0]
    for verb in (
        ["train", "--task", "jsonl", "--data", data, *out],
        ["generate", "--prompt", "a", "--max-new-tokens", 1],
    ):
        loaded = loaded_by(*verb, "--model", model)
        assert "transformers.modeling_utils" in loaded
        assert not [name for name in UNUSED if name in loaded]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    adapter = ll.attach(llama(), ll.LoRA(rank=2, targets="q,v"))
    give_effect(adapter)
    ll.save(adapter, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "verb",
    [
        "inspect A",
        "analyse spectrum A --out OUT",
        "analyse subspace A A --out OUT",
        "convert A OUT --to peft",
        "convert A OUT.safetensors --to loralib",
    ],
)
def test_an_adapters_files_are_read_without_the_code_of_models(verb: str, adapter: Path, tmp_path: Path) -> None:
    places = {"A": str(adapter), "OUT": str(tmp_path / "out"), "OUT.safetensors": str(tmp_path / "out.safetensors")}
    assert loaded_by(*(places.get(word, word) for word in verb.split())) == "[]"


def test_texts_are_scored_without_the_code_of_models(tmp_path: Path) -> None:
    """What counts ROUGE brings a stemmer along, with scikit-learn behind it."""
    for name, text in {"outputs": "a cat sat", "answers": "the cat sat"}.items():
        (tmp_path / name).write_text(f"{text}\n", encoding="utf-8")
    files = ["--predictions", tmp_path / "outputs", "--references", tmp_path / "answers"]
    assert loaded_by("score", "--task", "jsonl", *files) in ("[]", "['nltk', 'sklearn', 'pandas']")
