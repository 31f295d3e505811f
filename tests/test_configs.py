"""The paper's hyperparameters as configuration files: every one parses, and none says what the paper does not."""

from pathlib import Path
from typing import Any

import pytest

from loralab.cli.config_file import read_toml
from loralab.cli.settings import build_config
from loralab.cli.verbs.eval import EvalConfig
from loralab.cli.verbs.train import TrainVerbConfig
from loralab.tasks.table import READERS

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(CONFIGS.rglob("*.toml"))
GLUE = ["mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb"]


def named(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_is_a_configuration(path: Path) -> None:
    if path.name.endswith(".eval.toml"):
        config: EvalConfig | TrainVerbConfig = build_config(EvalConfig, {}, read_toml(path), path.name)
    else:
        config = build_config(TrainVerbConfig, {}, read_toml(path), path.name)
        config.validate()
        assert config.out == f"out/{path.parent.name}/{path.stem}"
    assert config.task in READERS
    assert path.name.startswith(config.task.rpartition("/")[2])


def column(folder: str, key: str) -> list[Any]:
    return [read_toml(CONFIGS / folder / f"{task}.toml")[key] for task in GLUE]


def test_tables_9_and_10_row_by_row() -> None:
    assert [rate * 1e4 for rate in column("table-2-roberta-base", "lr")] == pytest.approx([5, 5, 4, 4, 4, 5, 5, 4])
    assert column("table-2-roberta-base", "batch_size") == [16, 16, 16, 32, 32, 16, 32, 16]
    assert column("table-2-roberta-large", "epochs") == [10, 10, 20, 20, 10, 20, 20, 30]
    assert column("table-2-roberta-large-restricted", "max_length") == [128] * 8
    assert column("table-2-deberta-v2-xxlarge", "head_dropout") == [0.15, 0, 0, 0.1, 0.1, 0.2, 0.2, 0.2]


def test_table_17_subsets_of_mnli() -> None:
    files = [read_toml(CONFIGS / "table-16-gpt3-175b" / f"mnli-{size}.toml") for size in ("100", "1k", "10k", "392k")]
    assert [file["batch_size"] for file in files] == [20, 20, 100, 128]
    assert [file["epochs"] for file in files] == [40, 40, 4, 2]
    assert [file.get("limit") for file in files] == [100, 1_000, 10_000, None]


def test_table_11_decoding() -> None:
    penalties = {"table-3": ("e2e", 0.9), "table-13": ("dart", 0.8), "table-14": ("webnlg", 0.8)}
    for table, (task, penalty) in penalties.items():
        decoding = read_toml(CONFIGS / f"{table}-gpt2-medium" / f"{task}.eval.toml")
        assert (decoding["beams"], decoding["no_repeat_ngram"], decoding["length_penalty"]) == (10, 4, penalty)


def test_tables_9_and_12_of_the_baselines() -> None:
    folder = "table-2-roberta-large-restricted"
    files = [read_toml(CONFIGS / folder / f"{task}-adapter-p-64.toml") for task in GLUE]
    assert [file["lr"] for file in files] == [3e-5, 3e-5, *[3e-4] * 6]
    assert [file["epochs"] for file in files] == [10, 20, 20, 20, 10, 20, 20, 20]
    rates = {
        name: read_toml(CONFIGS / "table-4-gpt3-175b" / f"wikisql-{name}.toml")["lr"]
        for name in ("full", "bitfit", "prefix-embed", "prefix-layer", "adapter-h-1")
    }
    assert rates == {"full": 5e-6, "bitfit": 1.6e-3, "prefix-embed": 5e-4, "prefix-layer": 1e-4, "adapter-h-1": 1e-4}
