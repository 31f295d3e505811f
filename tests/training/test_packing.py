"""Several examples in one row are learned as they are alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

import loralab as ll
from loralab.models.packed import check_keeps_apart
from loralab.tasks.encoding.batches import collate
from loralab.tasks.encoding.encoded import Encoded, EncodedRow
from loralab.tasks.encoding.packing import pack
from loralab.training.objective import batch_loss_sum
from loralab.training.prepare import prepare
from tiny import write_t5
from training.conftest import Run

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 258, "pad_token_id": 0}
WIDE = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 128, "eos_token_id": 1}
KEEP_APART: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**WIDE),
    "qwen2": lambda: Qwen2Config(**WIDE),
    "qwen3": lambda: Qwen3Config(**WIDE, head_dim=8),
    "mistral, sliding": lambda: MistralConfig(**WIDE, sliding_window=6),
    "gemma3, sliding and full": lambda: Gemma3TextConfig(**WIDE, head_dim=8, sliding_window=6),
    "gpt_neox": lambda: GPTNeoXConfig(**SMALL, intermediate_size=48, max_position_embeddings=128, eos_token_id=1),
    "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, vocab_size=258, eos_token_id=1),
}
MIX: dict[str, Callable[[], PretrainedConfig]] = {
    "BloomForCausalLM": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=258),
    "OPTForCausalLM": lambda: OPTConfig(**SMALL, ffn_dim=48),
    "FalconForCausalLM": lambda: FalconConfig(**SMALL),
    "MambaForCausalLM": lambda: MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=258, state_size=4),
}


def model_of(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # so that what is before a token matters to it
    return model.eval()


def examples(count: int = 7) -> list[Encoded]:
    made = []
    for n in range(count):
        ids = [2 + (7 * n + 3 * t) % 250 for t in range(5 + 3 * n)]
        made.append(Encoded(ids, [-100, -100, *ids[2:]], weight=1.0))
    return made


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("family", KEEP_APART)
def test_the_loss_and_its_gradient_are_those_of_the_examples_alone(family: str, weights: bool) -> None:
    model, encoded = model_of(KEEP_APART[family]()), examples()
    if weights:
        encoded = [replace(each, weight=0.5 + n) for n, each in enumerate(encoded)]
    check_keeps_apart(model, *(torch.tensor(each.input_ids) for each in encoded[-2:]))
    rows = pack(encoded, 40, 0).rows
    assert max(len(row.examples) for row in rows) > 1
    losses, gradients = [], []
    for batch in (collate(encoded, 0), collate(rows, 0, longest=40)):
        model.zero_grad()
        loss = batch_loss_sum(model, batch, "generation", 0.1) / batch.mass
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-6)
    assert (gradients[1] - gradients[0]).norm() <= 1e-4 * gradients[0].norm()


@pytest.mark.parametrize("name", MIX)
def test_a_model_that_mixes_examples_is_refused_by_name(name: str) -> None:
    with pytest.raises(ll.SpecError, match=f"packing: {name} (does not|takes no)"):
        check_keeps_apart(model_of(MIX[name]()), torch.arange(2, 14), torch.arange(30, 45))


def test_rows_are_full_and_hold_every_example_once() -> None:
    encoded = [Encoded([1] * (1 + n % 17), [1] * (1 + n % 17)) for n in range(400)]
    packing = pack(encoded, 32, 3)
    assert sorted(place for row in packing.rows for place in row.places) == list(range(400))
    assert all(row.tokens <= 32 for row in packing.rows)
    assert packing.full > 0.97
    assert pack(encoded, 32, 3) == packing
    assert pack(encoded, 32, 4) != packing


def test_positions_begin_anew_and_no_first_token_is_a_target() -> None:
    row = EncodedRow((Encoded([5, 6, 7], [5, 6, 7]), Encoded([8, 9], [8, 9])), (0, 1))
    batch = collate([row], 3, longest=8)
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [[-100, 6, 7, -100, 9, -100, -100, -100]]
    assert batch.attention_mask is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_packed_run_learns_and_says_how_full_its_rows_are(configured: Run, dtype: str) -> None:
    result = ll.train(configured(packing=True, max_length=64, batch_size=2, steps=30, dtype=dtype))
    assert result.last_loss is not None
    assert result.first_loss is not None
    assert result.last_loss < result.first_loss - 0.3
    notes = json.loads((Path(result.adapter) / "run.json").read_text())["notes"]
    assert any(note.startswith("packing: ") and "% full" in note for note in notes)


def test_a_step_of_a_run_has_the_loss_of_its_examples_unpacked(configured: Run) -> None:
    run = prepare(configured(packing=True, max_length=64, batch_size=2), "float32")
    alone = prepare(configured(max_length=64), "float32")
    for number in (1, 2):
        step = run.trainee.data.step(number)
        places = [place for each in step.indices for place in each]
        loss = batch_loss_sum(
            alone.trainee.model, collate([alone.trainee.data.encoded[place] for place in places], 0), "generation", 0.0
        )
        assert run.trainee.objective.backward(step) == pytest.approx(float(loss.detach()) / step.targets, rel=2e-6)


def test_n_and_n_steps_are_2n_steps(configured: Run) -> None:
    fixed = {"packing": True, "max_length": 64, "batch_size": 2, "schedule": "constant", "warmup": 0.0, "eval_limit": 0}
    whole, halves = configured("whole", steps=6, **fixed), configured("halves", steps=3, **fixed)
    ll.train(whole)
    ll.train(halves)
    ll.train(replace(halves, steps=6, resume=True))
    one, other = (load_file(Path(config.out) / "adapter_model.safetensors") for config in (whole, halves))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cosine_penalty": 0.1}, "packing and cosine_penalty"),
        ({"preference": "dpo"}, "packing and preference"),
        ({"invocation_tokens": (5,)}, "packing and invocation_tokens"),
        ({"method": "lora+prefix-layer"}, r"packing and method lora\+prefix-layer"),
    ],
)
def test_what_minds_where_a_row_begins_is_refused(configured: Run, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.train(configured(packing=True, **changes))


def test_encoders_are_refused_with_the_reason(configured: Run, classifying: Run, tmp_path: Path) -> None:
    with pytest.raises(ll.SpecError, match="T5ForConditionalGeneration has an encoder, which reads a row as one text"):
        ll.train(configured(packing=True, model=str(write_t5(tmp_path / "t5")), targets="q,v"))
    with pytest.raises(ll.SpecError, match="task jsonl is a classification"):
        ll.train(classifying(packing=True))
