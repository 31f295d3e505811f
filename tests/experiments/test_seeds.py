import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev

import pytest

import loralab as ll
from loralab.experiments.seeds import as_answer, train_seeds
from tiny import write_bert, write_labels

Run = Callable[..., ll.TrainConfig]


@pytest.fixture
def config(tmp_path: Path) -> ll.TrainConfig:
    return ll.TrainConfig(
        model=str(write_bert(tmp_path / "bert")), task="jsonl", data=str(write_labels(tmp_path / "labels", 16)),
        out=str(tmp_path / "run"), rank=2, batch_size=8, lr=1e-2, epochs=1, dtype="float32", device="cpu",
    )  # fmt: skip


def test_the_median_over_seeds_and_the_run_nearest_to_it(config: ll.TrainConfig) -> None:
    result = train_seeds(config, (3, 1, 2))
    accuracies = [run.metrics["accuracy"] for run in result.runs]
    assert result.metrics["accuracy"] == median(accuracies)
    assert [Path(run.adapter).name for run in result.runs] == ["seed-3", "seed-1", "seed-2"]
    answer = as_answer(result)
    chosen = next(each for each in answer["seeds"] if each["adapter"] == answer["adapter"])
    assert chosen["metrics"]["accuracy"] == median(accuracies)
    assert answer.keys() >= {"steps", "trainable_params", "metrics", "spread"}


def test_the_summary_has_every_seed_the_mean_and_the_deviation(config: ll.TrainConfig) -> None:
    result = train_seeds(config, (1, 2))
    content = json.loads(Path(config.out, "seeds.json").read_text())
    losses = [each["metrics"]["loss"] for each in content["seeds"]]
    assert content["mean"]["loss"] == pytest.approx(fmean(losses))
    assert content["spread"]["loss"] == pytest.approx(stdev(losses))
    lines = Path(config.out, "seeds.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][2:] == [
        "| seed 1", "| seed 2", "| mean ± sd", "| median",
    ]  # fmt: skip
    assert content["summary"] == str(result.summary)


def test_resume_repeats_no_finished_seed(config: ll.TrainConfig) -> None:
    before = train_seeds(config, (1,))
    stamp = Path(before.runs[0].adapter, "adapter_model.safetensors").stat().st_mtime_ns
    after = train_seeds(replace(config, resume=True), (1, 2))
    assert Path(before.runs[0].adapter, "adapter_model.safetensors").stat().st_mtime_ns == stamp
    assert after.runs[0] == before.runs[0]
    assert Path(after.runs[1].adapter, "adapter_model.safetensors").is_file()


def test_resume_prolongs_a_finished_seed(config: ll.TrainConfig) -> None:
    before = train_seeds(config, (1,))
    after = train_seeds(replace(config, resume=True, epochs=2), (1,))
    assert after.runs[0].steps == 2 * before.runs[0].steps


def test_resume_refuses_another_configuration(config: ll.TrainConfig) -> None:
    train_seeds(config, (1,))
    with pytest.raises(ll.SpecError, match=r"cannot be resumed with another configuration: lr was 0\.01"):
        train_seeds(replace(config, resume=True, lr=0.5), (1,))


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_are_given_once_each(config: ll.TrainConfig, seeds: tuple[int, ...]) -> None:
    with pytest.raises(ll.SpecError, match="give at least one, each once"):
        train_seeds(config, seeds)
