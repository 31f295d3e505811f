"""What the verbs that need no model load: seconds of a start are in what is imported, and that can be held exactly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import loralab as ll
from small_models import llama
from toys import give_effect

SLOW = (
    "transformers.modeling_utils",
    "transformers.generation",
    "torch._dynamo",
    "nltk",
    "sklearn",
    "pandas",
    "datasets",
)
"""Of transformers what defines models, and what it and others bring along; each takes a second or more."""

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
