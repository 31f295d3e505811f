"""A model with a chat template, and two adapters for it: one of conversations, one of plain completions."""

from pathlib import Path

import pytest

from loralab.cli.main import main
from tiny import write_labels, write_lines, write_llama, write_pairs


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("talker") / "model", initializer_range=0.5)


@pytest.fixture(scope="session")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    turns = [{"role": "user", "content": "5 + 12"}, {"role": "assistant", "content": "17"}]
    data = {"talks": write_lines(root / "talks.jsonl", [{"messages": turns}] * 8), "pairs": write_pairs(root / "data")}
    for name, path in data.items():
        flags = ["--model", str(model), "--task", "jsonl", "--data", str(path), "--out", str(root / name)]
        assert main(["train", *flags, "--steps", "2", "--lr", "0.1", "--eval-limit", "0", "--save-every", "0"]) == 0
    return [root / name for name in data]


@pytest.fixture(scope="session")
def classifier(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the same model with a head for classes."""
    root = tmp_path_factory.mktemp("classes")
    flags = ["--model", str(model), "--task", "jsonl", "--data", str(write_labels(root / "data"))]
    training = ["--out", str(root / "classes"), "--steps", "1", "--eval-limit", "0", "--save-every", "0"]
    assert main(["train", *flags, *training]) == 0
    return root / "classes"
