"""Rows of single tokens through the whole of a run: they learn, resume bit for bit, are counted, and come back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.cli.settings import build_config
from loralab.methods.settings import MethodSettings
from loralab.methods.table import METHODS
from loralab.models.load import load_model
from loralab.planning.config import PlanConfig
from loralab.planning.plan import plan
from loralab.tasks.table import open_task
from loralab.training.folder import RunFolder
from tiny import byte_tokenizer, write_llama
from training.conftest import Run

LETTERS = tuple(byte_tokenizer().convert_tokens_to_ids(list("abc")))
ABSENT = byte_tokenizer().convert_tokens_to_ids("Q")
TARGETS = {"targets": "q_proj"}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def config(configured: Run, tmp_path: Path, request: pytest.FixtureRequest) -> ll.TrainConfig:
    model = write_llama(tmp_path / "base", tie_word_embeddings=request.param)
    return configured(model=str(model), trainable_token_indices=LETTERS, **TARGETS)


def rows(folder: str) -> torch.Tensor:
    held = load_file(Path(folder) / "adapter_model.safetensors")
    return held["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]


def test_the_rows_learn_and_the_folder_computes_what_was_trained(config: ll.TrainConfig) -> None:
    result = ll.train(replace(config, steps=20))
    loaded = load_model(config.model, dtype="float32", device="cpu")
    before = loaded.model.get_input_embeddings().weight[list(LETTERS)].clone()
    assert ((rows(config.out) - before).abs().amax(1) > 1e-3).all()
    ll.load(loaded.model, config.out)
    task = open_task("jsonl", config.data)
    again = ll.evaluate(loaded.model, loaded.tokenizer, task, "validation", limit=8, batch_size=8)
    assert again.loss == pytest.approx(result.metrics["loss"], abs=1e-5)
    assert result.last_loss < result.first_loss


def test_a_run_and_a_plan_count_the_rows_once(config: ll.TrainConfig) -> None:
    result = ll.train(replace(config, steps=1, eval_limit=0))
    planned = plan(PlanConfig(model=config.model, rank=2, trainable_token_indices=LETTERS, **TARGETS))
    assert result.trainable_params == planned.trainable_params == 2 * 2 * (32 + 32) + 3 * 32


def test_half_and_half_is_the_whole_bit_for_bit(config: ll.TrainConfig, tmp_path: Path) -> None:
    whole = ll.train(replace(config, out=str(tmp_path / "whole")))
    halves = replace(config, save_every=3)
    ll.train(halves)
    (RunFolder(Path(config.out)).checkpoints / "step-00000006.safetensors").unlink()
    ll.train(replace(halves, resume=True))
    assert torch.equal(rows(whole.adapter), rows(config.out))


def test_tokens_that_the_data_lacks_may_rest_and_stay_what_they_are(configured: Run) -> None:
    config = configured(trainable_token_indices=(*LETTERS, ABSENT), weight_decay=0.1, **TARGETS)
    ll.train(config)
    base = load_model(config.model, dtype="float32", device="cpu").model.get_input_embeddings().weight
    assert torch.equal(rows(config.out)[-1], base[ABSENT])
    notes = json.loads((Path(config.out) / "run.json").read_text())["notes"]
    assert any(
        f"the rows of token {ABSENT} in model.embed_tokens are still those of the base" in each for each in notes
    )
    ll.train(replace(config, trainable_token_indices=(ABSENT,), out=config.out + "2"))


def test_a_run_starts_from_rows_of_the_same_tokens_only(config: ll.TrainConfig, tmp_path: Path) -> None:
    ll.train(config)
    second = replace(config, out=str(tmp_path / "second"), init_adapter=config.out, lr=1e-30, steps=1, eval_limit=0)
    ll.train(second)
    assert torch.equal(rows(second.out), rows(config.out))
    with pytest.raises(ll.SpecError, match="give the same trainable_token_indices"):
        ll.train(replace(second, out=str(tmp_path / "third"), trainable_token_indices=LETTERS[::-1]))
    with pytest.raises(ll.AdapterFileError, match="trainable_token_indices"):
        ll.train(replace(second, out=str(tmp_path / "fourth"), trainable_token_indices=None))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_without_rows_refuses_them_before_anything_is_written(configured: Run, method: str) -> None:
    config = configured(method=method, trainable_token_indices=LETTERS, steps=1, eval_limit=0, **TARGETS)
    if METHODS[method].takes_tokens:
        ll.train(config)
        assert rows(config.out).shape == (3, 32)
    else:
        with pytest.raises(ll.SpecError, match="trains no single rows"):
            ll.train(config)
        assert not Path(config.out).exists()


@pytest.mark.parametrize(
    "written, meant",
    [
        ("4,6", (4, 6)),
        ([4, 6], (4, 6)),
        ("embed_tokens=[4,6],lm_head=[4]", {"embed_tokens": (4, 6), "lm_head": (4,)}),
        ({"embed_tokens": [4, 6]}, {"embed_tokens": (4, 6)}),
        ("embed_tokens=4", {"embed_tokens": (4,)}),
    ],
)
def test_the_flag_is_a_list_or_lists_by_module(written: object, meant: object) -> None:
    settings = build_config(MethodSettings, {"trainable_token_indices": written}, {}, "")
    assert settings.trainable_token_indices == meant
