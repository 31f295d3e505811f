"""`plan` as a whole: what it answers, which models it takes, the storage arithmetic, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import loralab as ll
from loralab.errors import ModelLoadError, NotFoundError, SpecError, TargetError
from loralab.planning.config import PlanConfig
from loralab.planning.plan import plan
from tiny import write_bert, write_llama, write_t5, write_vit


def test_the_papers_storage_arithmetic() -> None:
    found = plan(PlanConfig(model="gpt3-175b", rank=4, targets="q,v", dtype="float16"))
    assert found.memory.weights == pytest.approx(350e9, rel=0.01)
    assert found.tasks.base_bytes == pytest.approx(350e9, rel=0.01)
    assert found.tasks.adapter_bytes == 37_748_736
    assert found.tasks.with_adapters == pytest.approx(354e9, rel=0.01)
    assert found.tasks.with_copies == pytest.approx(35e12, rel=0.01)


def test_adapter_bytes_are_those_that_train_writes(tmp_path: Path) -> None:
    write_llama(tmp_path)
    found = plan(PlanConfig(model=str(tmp_path), rank=2, dtype="float32"))
    assert found.trainable_params == 2 * 2 * ((32 + 32) + (32 + 16))
    assert found.adapter_bytes == 4 * found.trainable_params


@pytest.mark.parametrize("write, kind", [(write_llama, 0), (write_bert, 1), (write_t5, 0), (write_vit, 1)])
def test_a_folder_needs_only_its_configuration(write: object, kind: int, tmp_path: Path) -> None:
    write(tmp_path)  # type: ignore[operator]
    for weights in tmp_path.glob("*.safetensors"):
        weights.unlink()
    found = plan(PlanConfig(model=str(tmp_path), rank=2, dtype="float32"))
    assert found.trainable_params > 0
    assert (found.head_params > 0) == bool(kind)
    assert found.memory.total > found.memory.weights


def test_nothing_has_values(tmp_path: Path) -> None:
    """The base is counted, not made: 700 GB of float32 would not fit."""
    assert plan(PlanConfig(model="gpt3-175b", method="full", dtype="float32")).memory.weights > 1e12


def test_the_answer_is_plain() -> None:
    answer = ll.plan(ll.PlanConfig(model="gpt2", dtype="float32")).to_json()
    assert json.loads(json.dumps(answer))["memory"]["total"] > 0


def test_the_sequence_is_as_long_as_the_context_allows() -> None:
    settings = {"method": "prefix-embed", "model": "roberta-base", "dtype": "float32"}
    assert plan(PlanConfig(**settings)).sequence_length == 512 - 16  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="context of 512"):
        plan(PlanConfig(sequence_length=512, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"model": "no/such-model"}, NotFoundError, "plan with a preset: gpt2, "),
        ({"model": "llama-3-8b", "method": "bitfit"}, TargetError, "has none outside its head"),
        ({"model": "gpt2", "targets": "q_proj"}, TargetError, "q_proj"),
        ({"model": "gpt2", "rank": 0}, SpecError, "rank"),
        ({"model": "gpt2", "rank": 100_000}, SpecError, "rank 100000"),
        ({"model": "gpt2", "batch_size": 0}, SpecError, "batch_size 0"),
        ({"model": "gpt2", "tasks": -1}, SpecError, "tasks -1"),
        ({"model": "gpt2", "labels": 0}, SpecError, "labels 0"),
        ({"model": "gpt2", "sequence_length": 1025}, SpecError, "context of 1024"),
        ({"model": "gpt2", "target_tokens": 513}, SpecError, "target_tokens 513"),
        ({"model": "gpt2", "method": "magic"}, SpecError, "magic"),
        ({"model": "gpt2", "method": "lora+lora"}, SpecError, "each of its parts once"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plan(PlanConfig(dtype="float32", **settings))  # type: ignore[arg-type]


def test_a_broken_configuration_is_an_error_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    with pytest.raises(ModelLoadError, match=r"config\.json cannot be used"):
        plan(PlanConfig(model=str(tmp_path), dtype="float32"))


def test_adapters_side_by_side_share_the_base() -> None:
    config = PlanConfig(model="gpt2-medium", rank=4, batch_size=16, sequence_length=128, dtype="bfloat16")
    one, eight = plan(config), plan(replace(config, adapters=8))
    trained = 4 * one.trainable_params
    assert eight.memory.weights - one.memory.weights == 7 * trained
    assert eight.memory.optimizer == 8 * one.memory.optimizer
    assert eight.memory.gradients == 8 * one.memory.gradients
    assert eight.memory.activations == one.memory.activations, "a batch of 2,048 tokens is a pass by itself"
    assert eight.adapter_bytes == one.adapter_bytes


def test_small_batches_of_several_adapters_are_one_pass_unless_chance_is_drawn() -> None:
    small = PlanConfig(model="smollm2-135m", batch_size=2, sequence_length=128, adapters=4, dtype="bfloat16")
    assert plan(small).memory.activations == plan(replace(small, batch_size=8, adapters=1)).memory.activations
    assert plan(replace(small, dropout=0.1)).memory.activations < plan(small).memory.activations
