"""A run from its configuration to an adapter on disk."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.models.load import load_model
from loralab.tasks.table import open_task
from tiny import write_t5

Configure = Callable[..., ll.TrainConfig]


def test_a_run_learns_and_leaves_everything_it_promises(configured: Configure) -> None:
    config = configured(steps=30)
    result = ll.train(config)
    assert result.metrics["loss"] < result.first_loss - 1
    assert math.isclose(result.metrics["perplexity"], math.exp(result.metrics["loss"]))
    out = Path(config.out)
    names = {path.name for path in out.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "run.json", "metrics.jsonl", "curves.png"}
    assert list((out / "tensorboard").glob("events.*"))
    assert (result.trainable_params, result.head_params) == (2 * 2 * (32 + 32 + 32 + 16) + 2 * (32 + 258), 0)
    record = json.loads((out / "run.json").read_text())
    assert record["config"] == json.loads(json.dumps(asdict(config)))
    assert record["result"]["last_loss"] == result.last_loss
    assert record["versions"]["torch"] == torch.__version__


def test_the_saved_adapter_computes_what_the_trained_one_did(configured: Configure) -> None:
    config = configured(steps=10)
    result = ll.train(config)
    loaded = load_model(config.model, dtype="float32", device="cpu")
    ll.load(loaded.model, config.out)
    task = open_task("jsonl", config.data)
    again = ll.evaluate(loaded.model, loaded.tokenizer, task, "validation", limit=8, batch_size=8)
    assert again.loss == pytest.approx(result.metrics["loss"], abs=1e-5)


def test_real_tokens_are_counted_without_padding(configured: Configure) -> None:
    config = configured(epochs=2, steps=None)
    lines = [json.loads(line) for line in (Path(config.data) / "train.jsonl").read_text().splitlines()]
    per_epoch = sum(len(line["prompt"]) + len(line["completion"]) + 2 for line in lines)  # a space and an end
    assert ll.train(config).tokens == 2 * per_epoch


def test_a_classifier_trains_its_fresh_head_which_is_counted_apart(classifying: Configure) -> None:
    config = classifying(epochs=8)
    result = ll.train(config)
    assert result.metrics["accuracy"] > 90
    assert result.head_params >= 32 * 2 + 2
    assert result.trainable_params == 2 * 2 * 2 * (32 + 32)
    assert "base_model.model.classifier.weight" in load_file(Path(config.out) / "adapter_model.safetensors")


def test_the_best_adapter_is_kept_and_a_run_stops_early(configured: Configure) -> None:
    config = configured(steps=60, lr=0.3, eval_every=2, early_stop=2, schedule="constant")
    result = ll.train(config)
    assert result.steps < 60
    entries = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in entries if entry["split"] == "validation" and entry["step"]}
    assert result.best_step == min(losses, key=losses.get)
    assert result.metrics["loss"] == pytest.approx(min(losses.values()), abs=1e-6)


def test_checkpointing_activations_computes_the_same(configured: Configure) -> None:
    plain = ll.train(configured("plain", steps=4))
    checkpointed = ll.train(configured("checkpointed", steps=4, gradient_checkpointing=True))
    assert checkpointed.last_loss == pytest.approx(plain.last_loss, rel=1e-5)


def test_bfloat16_bases_train_float32_adapters(configured: Configure) -> None:
    config = configured(steps=12, dtype="bfloat16")
    result = ll.train(config)
    assert result.metrics["loss"] < result.first_loss
    dtypes = {tensor.dtype for tensor in load_file(Path(config.out) / "adapter_model.safetensors").values()}
    assert dtypes == {torch.float32}


def test_a_folder_in_use_is_refused_and_left_alone(configured: Configure) -> None:
    config = configured(steps=2)
    ll.train(config)
    before = (Path(config.out) / "run.json").read_bytes()
    with pytest.raises(ll.OutputError, match="holds another run"):
        ll.train(config)
    assert (Path(config.out) / "run.json").read_bytes() == before
    assert ll.train(configured(steps=3, overwrite=True)).steps == 3
    (Path(config.out) / "run.json").unlink()
    with pytest.raises(ll.OutputError, match="not empty"):
        ll.train(config)


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(configured: Configure) -> None:
    with pytest.raises(ll.SpecError, match=r"rank 0.*lr.*steps 6 and epochs 2"):
        ll.train(configured(rank=0, lr=-1.0, epochs=2.0))
    with pytest.raises(ll.SpecError, match="finite"):
        ll.train(configured(lr=float("nan")))
    with pytest.raises(ll.TargetError):
        ll.train(configured(targets="nowhere"))
    with pytest.raises(ll.SpecError, match="best_metric 'rouge_l'"):
        ll.train(configured(best_metric="rouge_l"))
    assert not Path(configured().out).exists()


def test_a_loss_that_is_not_finite_names_step_and_examples(configured: Configure) -> None:
    with pytest.raises(ll.TrainingError, match=r"of step \d+ is (nan|inf).*examples \d+"):
        ll.train(configured(lr=1e20, alpha=1e30, schedule="constant", warmup=0.0, steps=20))


def test_an_encoder_decoder_learns_too(configured: Configure, tmp_path: Path) -> None:
    config = configured(model=str(write_t5(tmp_path / "t5")), targets="q,v,lm_head", steps=20)
    result = ll.train(config)
    assert result.metrics["loss"] < result.first_loss - 0.5
