"""Learning from pairs of answers through the whole of a run."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.methods.settings import TAKERS
from loralab.methods.table import METHOD_NAMES, rows_of
from loralab.tasks.encoding.encoded import EncodedPair
from loralab.training.objective import Preferred
from loralab.training.prepare import prepare
from tiny import write_t5
from training.conftest import Run


def pairs(path: Path, talk: bool = False, **more: Any) -> str:
    """Yes is always better than no."""
    rows = []
    for n in range(48):
        prompt, chosen, rejected = f"Is {n % 24} right?", f"yes {n}", f"no {n}"
        if talk:
            asked = [{"role": "user", "content": prompt}]
            sides = [[*asked, {"role": "assistant", "content": each}] for each in (chosen, rejected)]
            rows.append({"chosen": sides[0], "rejected": sides[1], **more})
        else:
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, **more})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def preferring(configured: Run, tmp_path: Path) -> Run:
    data = pairs(tmp_path / "pairs.jsonl")

    def configure(out: str = "run", **changes: Any) -> ll.TrainConfig:
        defaults = {
            "data": data,
            "preference": "dpo",
            "steps": 4,
            "lr": 1e-2,
            "validation_share": 0.25,
            "eval_limit": 8,
        }
        return configured(out, **defaults | changes)

    return configure


def of_method(config: ll.TrainConfig, method: str) -> ll.TrainConfig:
    """The run with another method, and of the settings those that it takes."""
    taken = {name for row in rows_of(method) for name in row.takes}
    defaults = {each.name: each.default for each in fields(config) if each.name in TAKERS - taken}
    return replace(config, method=method, **defaults)


@pytest.mark.parametrize("talk", [False, True])
@pytest.mark.parametrize("preference", ["dpo", "orpo"])
def test_the_preferred_answer_gains(preferring: Run, tmp_path: Path, preference: str, talk: bool) -> None:
    data = pairs(tmp_path / "talk.jsonl", talk=talk)
    result = ll.train(preferring(data=data, preference=preference, steps=20))
    assert result.metrics["reward_accuracy"] == 100
    if preference == "dpo":
        assert result.before["reward_accuracy"] == 50, "ties: nothing but rounding tells the model from its reference"
    assert result.metrics["reward_margin"] > result.before["reward_margin"] + 0.1
    assert result.metrics["loss"] < result.before["loss"]


@pytest.mark.parametrize("method", [name for name in METHOD_NAMES if name != "bitfit"])  # the model has no biases
def test_at_step_0_dpo_is_log_2_and_the_reference_stays_the_base(preferring: Run, method: str) -> None:
    config = of_method(preferring(size=8, prefix=2, infix=2), method)
    trainee = prepare(config, "float32").trainee
    assert isinstance(trainee.objective, Preferred)
    batch = trainee.data.step(1).batches[0]
    if "adamix" not in method and "prefix" not in method:  # those act from the first step on
        loss = float(trainee.objective.step(batch, trainee.data.step(1))[0].detach())
        assert loss == pytest.approx(math.log(2), abs=1e-5)
    before = trainee.objective.reference.of(batch)
    for step in (1, 2):
        trainee.objective.backward(trainee.data.step(step))
        trainee.optimizer.gather()
        trainee.optimizer.step()
        trainee.optimizer.zero_grad(set_to_none=True)
    trainee.objective.reference.known.clear()
    assert torch.equal(trainee.objective.reference.of(batch), before)


def test_n_and_n_steps_are_2n_steps_over_epochs(preferring: Run) -> None:
    fixed = {"schedule": "constant", "warmup": 0.0, "dropout": 0.2, "batch_size": 8, "accumulate": 2, "eval_limit": 0}
    whole, halves = preferring("whole", steps=8, **fixed), preferring("halves", steps=5, **fixed)
    ll.train(whole)
    ll.train(halves)
    ll.train(replace(halves, steps=8, resume=True))
    one, other = (load_file(Path(config.out) / "adapter_model.safetensors") for config in (whole, halves))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_reference_of_a_pair_is_computed_once(preferring: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = prepare(preferring(), "float32")
    assert isinstance(run.trainee.objective, Preferred)
    measure = run.trainee.objective.reference._measure
    monkeypatch.setattr(
        run.trainee.objective.reference, "_measure", lambda batch: (seen.extend(batch.places), measure(batch))[1]
    )
    for step in range(1, 2 * run.trainee.data.steps_per_epoch + 1):
        run.trainee.objective.backward(run.trainee.data.step(step))
    assert sorted(seen) == list(range(len(run.trainee.data.encoded)))


def test_both_prompts_are_cut_alike(preferring: Run, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text('{"prompt": "abcdefghijklmnop", "chosen": "short", "rejected": "one that is longer"}\n' * 3)
    run = prepare(preferring(data=str(path), max_length=24, validation_share=None, eval_limit=0), "float32")
    (pair, *_) = run.trainee.data.encoded
    assert isinstance(pair, EncodedPair)
    contexts = [[i for i, label in zip(s.input_ids, s.labels, strict=True) if label == -100] for s in pair.sides]
    assert contexts[0] == contexts[1]
    assert (len(pair.rejected.input_ids), len(contexts[0])) == (24, 4)


def test_a_weight_counts_the_pair(preferring: Run, tmp_path: Path) -> None:
    run = prepare(preferring(data=pairs(tmp_path / "w.jsonl", weight=0.5)), "float32")
    step = run.trainee.data.step(1)
    assert step.mass == pytest.approx(4.0)
    assert run.trainee.objective.backward(step) == pytest.approx(math.log(2), abs=1e-5)


def test_an_encoder_decoder_learns_from_pairs_too(preferring: Run, tmp_path: Path) -> None:
    model = str(write_t5(tmp_path / "t5"))
    result = ll.train(preferring(model=model, targets="q,v", steps=10, lr=3e-2))
    assert result.first_loss == pytest.approx(math.log(2), abs=1e-4)
    assert result.metrics["reward_margin"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preference": None}, "holds pairs of answers: say how to learn from them, with preference dpo"),
        ({"consistency": 1.0}, "preference dpo and consistency 1.0"),
        ({"cosine_penalty": 1.0}, "preference dpo and cosine_penalty"),
        ({"label_smoothing": 0.5}, "label_smoothing 0.5: of pairs it must be below 0.5"),
        ({"preference": "orpo", "label_smoothing": 0.1}, "orpo has none"),
        ({"beta": 0.0}, "beta 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(preferring: Run, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.train(preferring(**changes))


def test_data_without_pairs_are_refused(configured: Run) -> None:
    with pytest.raises(ll.SpecError, match="task jsonl holds none"):
        ll.train(configured(preference="dpo"))


def test_the_note_says_what_the_reference_is(preferring: Run, tmp_path: Path) -> None:
    ll.train(preferring("first", preference="orpo", steps=1))
    second = preferring("second", steps=1, init_adapter=str(tmp_path / "first"))
    notes = " ".join(prepare(second, "float32").notes)
    assert "the reference is the base without the adapter" in notes
    assert "the reference is not the adapter" in notes
    assert "as it was loaded: the reference" in " ".join(prepare(of_method(preferring(), "full"), "float32").notes)
