"""`plan --gpu-memory`: the verdict, the largest batch, and what to change, each weighed by planning it."""

from dataclasses import replace
from pathlib import Path

import pytest

from loralab.errors import SpecError
from loralab.planning.config import PlanConfig
from loralab.planning.fit import Fit
from loralab.planning.gpu import bytes_of
from loralab.planning.plan import plan
from tiny import write_llama


def fit_of(config: PlanConfig) -> Fit:
    found = plan(config).fit
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("24 gib", 24 * 2**30), ("1.5TB", 1_500_000_000_000), ("800", 800)]
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "24G B", "GB", "-3GB", "0GB", "24 apples", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="give it as 24GB"):
        plan(PlanConfig(model="gpt2", gpu_memory=text))


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "gpt2", "gpu_memory": "8GB", "dtype": "float32"},
        {"model": "roberta-base", "gpu_memory": "4GB", "sequence_length": 128, "gradient_checkpointing": True},
        {"model": "gpt2", "gpu_memory": "8GB", "gpus": 2, "quantize": "nf4"},
        {"model": "minilm-l6", "gpu_memory": "6GiB", "method": "full"},
    ],
    ids=["decoder", "encoder", "two", "embedded"],
)
def test_the_largest_batch_fits_and_one_more_example_does_not(settings: dict[str, object]) -> None:
    config = PlanConfig(**settings)  # type: ignore[arg-type]
    largest = fit_of(config).largest_batch
    assert largest % config.gpus == 0
    assert largest >= config.gpus
    at_most, beyond = (plan(replace(config, batch_size=size)) for size in (largest, largest + 1))
    assert at_most.fit is not None
    assert beyond.fit is not None
    assert (at_most.fit.fits, beyond.fit.fits) == (True, False)
    assert at_most.memory.total + at_most.fit.spare == at_most.fit.gpu_bytes
    assert beyond.fit.spare == beyond.fit.gpu_bytes - beyond.memory.total < 0


def test_what_fits_needs_no_changes() -> None:
    found = fit_of(PlanConfig(model="gpt2", gpu_memory="80GB", batch_size=1))
    assert (found.fits, found.changes, found.flags) == (True, (), None)


def test_every_change_saves_what_a_plan_with_it_says() -> None:
    config = PlanConfig(
        model="gpt2", gpu_memory="1GB", dtype="float32", targets="all-linear", sequence_length=1024, batch_size=8
    )
    found = fit_of(config)
    assert [each.flags.split()[0] for each in found.changes] == [
        "--batch-size", "--gradient-checkpointing", "--dtype", "--quantize",
    ]  # fmt: skip
    after = replace(config, batch_size=1)
    assert plan(after).memory.total == found.changes[0].total
    after = replace(after, gradient_checkpointing=True)
    assert plan(after).memory.total == found.changes[1].total
    after = replace(after, dtype="bfloat16")
    assert found.changes[1].total - plan(after).memory.total == found.changes[2].saves > 0
    assert [each.fits for each in found.changes] == [False, False, False, True]


def test_the_recipe_fits_with_the_largest_batch_that_then_does() -> None:
    config = PlanConfig(model="gpt2", gpu_memory="1GB", dtype="float32", sequence_length=512, batch_size=12)
    found = fit_of(config)
    assert found.flags is not None
    words = found.flags.split()
    batch, accumulate = (int(words[words.index(flag) + 1]) for flag in ("--batch-size", "--accumulate"))
    assert batch * accumulate == 12
    assert found.flags.startswith(f"--batch-size {batch} --accumulate {accumulate} --gradient-checkpointing")
    changed = replace(config, batch_size=batch, gradient_checkpointing=True)
    if "--dtype" in words:
        changed = replace(changed, dtype="bfloat16")
    assert fit_of(changed).fits


def test_what_nothing_makes_fit_says_so() -> None:
    found = fit_of(PlanConfig(model="gpt2-medium", gpu_memory="700MB", batch_size=2))
    assert (found.fits, found.largest_batch, found.flags) == (False, 0, None)
    assert not any(each.fits for each in found.changes)


def test_what_trains_every_weight_is_told_of_lora_and_then_of_four_bits() -> None:
    config = PlanConfig(model="gpt2-medium", method="full", gpu_memory="1.2GB", batch_size=2)
    found = fit_of(config)
    flags = [each.flags for each in found.changes]
    assert flags.index("--method lora") < flags.index("--quantize nf4"), "what trains is not kept in four bits"
    assert found.flags is not None
    assert "--method lora" in found.flags


def test_a_folder_of_a_model_is_planned_alike(tmp_path: Path) -> None:
    write_llama(tmp_path)
    found = plan(PlanConfig(model=str(tmp_path), rank=2, gpu_memory="1GB", sequence_length=64))
    assert found.fit is not None
    assert found.fit.fits
    assert (found.device, found.dtype) == ("cuda", "bfloat16"), "a GPU's, whatever machine plans it"
    assert found.notes[-1].startswith("memory of a GPU: estimated")


def test_several_gpus_have_a_part_of_the_batch_each() -> None:
    one = plan(PlanConfig(model="gpt2", device="cuda", batch_size=4))
    two = plan(PlanConfig(model="gpt2", gpus=2, batch_size=8))
    assert two.memory.activations == one.memory.activations
    assert two.memory.total - one.memory.total == one.memory.gradients, "buckets"
    with pytest.raises(SpecError, match="gpus 9: a batch of 8 has not an example for each"):
        plan(PlanConfig(model="gpt2", gpus=9, batch_size=8))


def test_the_verdict_on_several_gpus_is_on_the_part_of_each() -> None:
    """The room of one GPU holds its own part of a batch, whatever the whole batch would need."""
    each = PlanConfig(model="gpt2", gpu_memory="6GB", batch_size=6, dtype="float32")
    one, three = fit_of(each), fit_of(replace(each, gpus=3, batch_size=18))
    assert one.fits
    assert three.fits
    gradients = plan(each).memory.gradients
    assert one.spare - three.spare == gradients, "a part as large as the one GPU's batch, and the buckets"
    assert three.largest_batch % 3 == 0
    share = three.largest_batch // 3
    assert one.largest_batch - 1 <= share <= one.largest_batch
    full = replace(each, gpus=3, batch_size=three.largest_batch)
    assert fit_of(full).fits
    assert not fit_of(replace(full, batch_size=three.largest_batch + 3)).fits


def test_several_gpus_keep_an_example_each() -> None:
    """No advice leaves a GPU without work: a smaller batch ends at one example for each."""
    config = PlanConfig(model="gpt2-medium", gpu_memory="2.4GB", gpus=4, batch_size=16, dtype="float32")
    found = fit_of(config)
    batches = [int(change.flags.split()[1]) for change in found.changes if change.flags.startswith("--batch-size")]
    assert batches == [4], "before anything that costs more"
    assert not found.changes[0].fits
