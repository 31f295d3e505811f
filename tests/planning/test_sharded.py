"""Plans of a base in parts: what one GPU holds, what it sends, and the figures of docs/scaling.md."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

import loralab as ll

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = ll.PlanConfig(model="llama-3.2-1b", rank=8, targets="q,v", gpus=4, batch_size=4, device="cuda")


def test_blocks_are_shared_out_and_the_rest_is_whole() -> None:
    whole, parts = ll.plan(SHARED), ll.plan(replace(SHARED, shard=True))
    vocabulary, width, layers = 128256, 2048, 16
    blocks = 2 * (whole.total_params - vocabulary * width - width)  # embeddings are tied, and a norm comes last
    elsewhere = blocks - blocks // 4 - blocks // layers
    assert whole.memory.weights - parts.memory.weights == elsewhere
    assert replace(parts.memory, weights=0) == replace(whole.memory, weights=0)
    assert whole.wire.base_per_batch == 0
    assert parts.wire.base_per_batch == 2 * 3 * blocks // 4
    assert parts.wire.adapter_per_step == whole.wire.adapter_per_step == 2 * 3 * 4 * whole.trainable_params // 4


def test_one_gpu_sends_nothing() -> None:
    assert ll.plan(replace(SHARED, gpus=1)).wire.adapter_per_step == 0


def test_packed_blocks_are_shared_out_too() -> None:
    wide, packed = (ll.plan(replace(SHARED, shard=True, quantize=how)) for how in (None, "nf4"))
    assert 0.25 < packed.wire.base_per_batch / wide.wire.base_per_batch < 0.3  # 4.5 bits of 16, norms as they are
    whole = ll.plan(replace(SHARED, quantize="nf4"))
    assert packed.memory.weights < whole.memory.weights


def test_one_gpu_has_nobody_to_share_with() -> None:
    with pytest.raises(ll.SpecError, match="give --gpus"):
        ll.plan(replace(SHARED, shard=True, gpus=1))


def test_sharding_is_a_way_to_make_it_fit() -> None:
    verdict = ll.plan(replace(SHARED, dtype="bfloat16", gradient_checkpointing=True, gpu_memory="3GB")).fit
    assert verdict is not None
    assert not verdict.fits
    assert "--shard" in [each.flags for each in verdict.changes]


@pytest.mark.slow
def test_the_figures_of_the_page_are_those_of_the_plans() -> None:
    names = runpy.run_path(str(REPOSITORY / "runs" / "scaling.py"))
    assert json.loads((REPOSITORY / "docs" / "results" / "scaling.json").read_text()) == names["record"]()
