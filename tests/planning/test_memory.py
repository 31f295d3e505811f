"""The memory estimate: by hand for a model small enough, its directions, and against what training really took."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.methods.counts import parameter_counts
from loralab.methods.registry import specification
from loralab.methods.settings import MethodSettings
from loralab.models.load import config_of_type, model_from_config
from loralab.planning.activations import activation_parts
from loralab.planning.gpu import CONTEXT_BYTES, CUBLAS_BYTES, SEGMENT_BYTES
from loralab.planning.memory import BYTES_PER_TRAINING_TOKEN, HEAP_SHARE, PROCESS_BYTES, estimate
from loralab.planning.shape import Workload

TINY = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 10,
}
BASE = 10 * 8 * 2 + 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12 + 2 * 8) + 8
"""Embedding and head; in each of two blocks q, k and v, o, the gated feed-forward, two norms; the last norm."""
WORK = Workload(batch=2, tokens=3, targets=4, dtype=torch.bfloat16)


def tiny(method: str = "lora") -> tuple[PreTrainedModel, Adapter]:
    with torch.device("meta"):
        model = model_from_config("tiny", config_of_type("llama", TINY), "causal-lm")
    return model, attach(model, specification(MethodSettings(method=method, rank=1)))


def test_by_hand() -> None:
    found = estimate(*tiny(), WORK)
    trained = 2 * ((8 + 8) + (8 + 4))
    norms, query_key_value, gate_and_up = 2 * (6 * 8 * 2 + 6 * 4), 6 * (8 + 4 + 4) * 2, 2 * 6 * 12 * 2
    inputs_of_q_and_v, products = 6 * 8 * 2, 2 * 6 * 1 * 2
    blocks = 2 * (norms + query_key_value + gate_and_up + inputs_of_q_and_v + products)
    head = 2 * 4 * 8 * 2 + 4 * 10 * 2 + 3 * 2**20
    workspace = 2 * 6 * 12 * 2
    assert found.weights == 2 * BASE + 4 * trained
    assert (found.gradients, found.optimizer) == (4 * trained, 8 * trained)
    assert found.activations == blocks + head + workspace + 2 * trained
    assert found.allocator == int(HEAP_SHARE * (blocks + head + workspace)) - 4 * trained
    assert (found.process, found.data) == (PROCESS_BYTES, 0)


def test_the_total_is_the_sum() -> None:
    parts = estimate(*tiny(), replace(WORK, training_tokens=1000)).to_json()
    assert parts["data"] == 1000 * BYTES_PER_TRAINING_TOKEN
    assert parts.pop("total") == sum(parts.values())


def test_full_fine_tuning_keeps_sixteen_bytes_a_parameter_beside_the_base() -> None:
    found = estimate(*tiny("full"), WORK)
    assert found.weights + found.gradients + found.optimizer == (2 + 16) * BASE


@pytest.mark.parametrize("more", [{"tokens": 120}, {"batch": 128}, {"targets": 4000}])
def test_activations_grow(more: dict[str, Any]) -> None:
    large = replace(WORK, batch=64, tokens=60)
    assert estimate(*tiny(), replace(large, **more)).activations > estimate(*tiny(), large).activations


def test_an_encoder_decoders_logits_are_never_whole() -> None:
    with torch.device("meta"):
        model = model_from_config("t5", config_of_type("t5", {"decoder_start_token_id": 0}), "seq2seq-lm")
    adapter, vocabulary = attach(model, specification(MethodSettings(targets="q,v"))), int(model.config.vocab_size)
    few, many = (
        activation_parts(model, adapter, parameter_counts(adapter, model), replace(WORK, targets=targets))
        for targets in (4000, 8000)
    )
    assert many["head"] - few["head"] < 4000 * vocabulary


def test_checkpointing_keeps_less() -> None:
    large = replace(WORK, batch=64, tokens=60)
    checkpointed = estimate(*tiny(), replace(large, gradient_checkpointing=True))
    assert checkpointed.activations < estimate(*tiny(), large).activations


def test_only_blocks_that_gradients_reach_keep_anything() -> None:
    with torch.device("meta"):
        model = model_from_config("tiny", config_of_type("llama", TINY), "causal-lm")
    lowest = estimate(model, attach(model, specification(MethodSettings(rank=1, layers=(0,))), "lowest"), WORK)
    highest = estimate(model, attach(model, specification(MethodSettings(rank=1, layers=(1,))), "highest"), WORK)
    assert highest.activations < lowest.activations


def test_cuda_counts_its_context_and_what_the_allocator_wastes() -> None:
    found = estimate(*tiny(), replace(WORK, device="cuda", training_tokens=9))
    assert found.process == CONTEXT_BYTES + CUBLAS_BYTES > 4 * 10**8
    assert found.allocator == int(0.15 * found.activations) + SEGMENT_BYTES
    assert found.data == 0, "the data are the host's"


def test_gpus_that_share_a_batch_exchange_gradients_in_buckets() -> None:
    alone, shared = (estimate(*tiny(), replace(WORK, device="cuda", gpus=gpus)) for gpus in (1, 2))
    assert shared.gradients == 2 * alone.gradients > 0
    assert shared.total - alone.total == alone.gradients


MRPC = {"model": "minilm-l6", "task": "glue/mrpc", "data": "glue", "batch_size": 32, "steps": 8}
E2E = {"model": "smollm2-135m", "task": "e2e", "data": "e2e", "rank": 4, "batch_size": 16, "steps": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [MRPC, MRPC | {"method": "full"}, MRPC | {"method": "adapter-h"}, E2E],
    ids=["lora", "full", "adapter-h", "language-model"],
)
def test_the_peak_of_a_training_is_predicted(settings: dict[str, object], shared_data: Path) -> None:
    done = in_a_process("peak_of_training.py", settings, shared_data)
    assert done["predicted"] == pytest.approx(done["measured"], rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 16], ids=["rows-of-one-batch", "in-turn"])
def test_the_peak_of_several_adapters_on_one_base_is_predicted(batch_size: int, shared_data: Path) -> None:
    settings = {**E2E, "batch_size": batch_size, "rank": 8, "limit": 12 * batch_size, "save_every": 0}
    settings.pop("steps")
    done = in_a_process("peak_of_several.py", settings, shared_data)
    assert done["predicted"] == pytest.approx(done["measured"], rel=0.15)


def in_a_process(program: str, settings: dict[str, object], shared_data: Path) -> dict[str, float]:
    """What it measured and predicted."""
    if sys.platform != "linux":
        pytest.skip("the constants of the estimate were measured on Linux")
    if not (shared_data / str(settings["data"])).is_dir():
        pytest.skip(f"the data are not here: {shared_data / str(settings['data'])}")
    told = json.dumps(settings | {"data": str(shared_data / str(settings["data"]))})
    command = [sys.executable, str(Path(__file__).with_name(program)), told]
    done: dict[str, float] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    )
    return done
