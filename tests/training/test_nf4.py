"""Training on a base in four bits: it learns, and its adapter belongs to the float base as well."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

import loralab as ll
from loralab.cli.main import main
from loralab.core.updates.update import Update
from loralab.formats.merged.folder import write_merged
from loralab.formats.quantized import quantize_base
from loralab.methods.counts import parameter_counts
from loralab.models.load import LoadedModel, load_model
from loralab.models.nf4 import QuantizedLinear, quantized_layers
from loralab.tasks.table import open_task
from loralab.training.forecast import forecast
from loralab.training.prepare import prepare
from small_models import SPECS, build
from tiny import byte_tokenizer
from training.conftest import Run

TARGETS = {"llama": "q_proj,v_proj,up_proj", "gpt2": "c_attn[q,v],c_fc"}


def write_gpt2(folder: Path) -> Path:
    """A random GPT-2, whose dense layers are Conv1D, with the tokenizer of bytes."""
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, vocab_size=258, **ends)
    ).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


Quantised = Callable[..., ll.TrainConfig]


@pytest.fixture(params=sorted(TARGETS))
def quantised(request: pytest.FixtureRequest, configured: Run, tmp_path: Path) -> Quantised:
    """A configuration of a run on a quantised Llama or GPT-2."""
    other = {"model": str(write_gpt2(tmp_path / "gpt2"))} if request.param == "gpt2" else {}

    def configure(**changes: Any) -> ll.TrainConfig:
        defaults = {"quantize": "nf4", "targets": f"{TARGETS[request.param]},lm_head", "steps": 20}
        return configured(**defaults | other | changes)

    return configure


def base(config: ll.TrainConfig, quantize: str | None = None, dtype: str = "float32") -> LoadedModel:
    loaded = load_model(config.model, dtype=dtype, device="cpu")
    if quantize is not None:
        quantize_base(loaded.model, quantize)
    return loaded


def loss(config: ll.TrainConfig, loaded: LoadedModel) -> float:
    task = open_task("jsonl", config.data)
    found = ll.evaluate(loaded.model, loaded.tokenizer, task, "validation", limit=8, batch_size=8).loss
    assert found is not None
    return found


def test_it_learns_and_its_adapter_loads_on_both_bases(quantised: Quantised) -> None:
    config = quantised()
    result = ll.train(config)
    assert result.metrics["loss"] < result.first_loss - 1
    packed, plain = base(config, "nf4"), base(config)
    ll.load(packed.model, config.out)
    adapter = ll.load(plain.model, config.out)
    assert loss(config, packed) == pytest.approx(result.metrics["loss"], abs=1e-5)
    assert loss(config, plain) == pytest.approx(result.metrics["loss"], abs=0.5)
    assert loss(config, plain) != pytest.approx(result.metrics["loss"], abs=1e-5)  # it is another base, a little
    assert any("trained on the base quantised to nf4" in note for note in adapter.notes)
    assert result.total_params == sum(p.numel() for p in base(config).model.parameters())


def test_the_files_are_those_of_a_float_base(quantised: Quantised) -> None:
    """Nothing but the values and the note tells where it was trained, so PEFT reads it as any other."""
    for out, quantize in (("packed", "nf4"), ("plain", None)):
        ll.train(quantised(out=out, quantize=quantize, steps=2, eval_limit=0))
    packed, plain = (Path(quantised(out=out).out) for out in ("packed", "plain"))
    assert (packed / "adapter_config.json").read_text() == (plain / "adapter_config.json").read_text()
    shapes = [{key: each.shape for key, each in load_file(where / "adapter_model.safetensors").items()}
              for where in (packed, plain)]  # fmt: skip
    assert shapes[0] == shapes[1]
    sidecars = [json.loads((where / "loralab.json").read_text()) for where in (packed, plain)]
    assert sidecars[0]["fingerprint"] == sidecars[1]["fingerprint"]
    assert sidecars[0]["modules"] == sidecars[1]["modules"]


def test_it_does_not_load_on_another_models_base(quantised: Quantised, tmp_path: Path) -> None:
    config = quantised(steps=1, eval_limit=0)
    ll.train(config)
    weights = Path(config.model) / "model.safetensors"
    values = load_file(weights)
    save_file({name: tensor * 1.5 for name, tensor in values.items()}, weights, {"format": "pt"})
    for quantize in (None, "nf4"):
        with pytest.raises(ll.FingerprintError, match="another base"):
            ll.load(base(config, quantize).model, config.out)


def test_it_loads_in_other_precisions(quantised: Quantised) -> None:
    config = quantised(steps=1, eval_limit=0)
    ll.train(config)
    for quantize in (None, "nf4", "nf4-double"):
        for dtype in ("bfloat16", "float16"):
            adapter = ll.load(base(config, quantize, dtype).model, config.out)
            assert adapter.matched
            assert {each.dtype for each in adapter.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "bfloat16"},
        {"quantize": "nf4-double", "gradient_checkpointing": True},
        {"bias": "all", "dropout": 0.1},
    ],
    ids=str,
)
def test_every_way_to_train_works_on_it(quantised: Quantised, settings: dict[str, Any]) -> None:
    result = ll.train(quantised(targets="all-linear,lm_head", steps=10, eval_limit=0, **settings))
    assert result.last_loss is not None
    assert result.last_loss < result.first_loss - 1


def test_a_resumed_run_ends_where_an_unbroken_one_does(configured: Run) -> None:
    settings = {"quantize": "nf4", "schedule": "constant", "warmup": 0, "eval_limit": 0}
    whole = ll.train(configured(out="whole", steps=4, **settings))
    ll.train(configured(out="broken", steps=2, **settings))
    resumed = ll.train(configured(out="broken", steps=4, resume=True, **settings))
    assert resumed.last_loss == whole.last_loss
    with pytest.raises(ll.SpecError, match="quantize was 'nf4' and is None"):
        ll.train(configured(out="broken", steps=8, resume=True, **settings | {"quantize": None}))


def test_a_run_starts_from_an_adapter_of_the_float_base(quantised: Quantised) -> None:
    first = ll.train(quantised(out="first", steps=10, eval_limit=0, quantize=None))
    second = ll.train(quantised(out="second", steps=1, eval_limit=0, init_adapter=first.adapter))
    assert second.first_loss < first.first_loss - 1


def test_merging_into_it_is_refused_and_into_the_float_base_it_works(quantised: Quantised, tmp_path: Path) -> None:
    config = quantised(steps=4, eval_limit=0, targets=TARGETS["gpt2" if "gpt2" in quantised().model else "llama"])
    ll.train(config)
    packed, plain = base(config, "nf4"), base(config)
    adapter = ll.load(packed.model, config.out)
    with pytest.raises(ll.AdapterStateError, match=r"four bits .* load the base without quantising"):
        ll.merge(packed.model)
    with pytest.raises(ll.AdapterStateError, match="four bits"):
        write_merged(packed.model, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    ll.load(plain.model, config.out)
    before = loss(config, plain)
    ll.merge(plain.model)
    assert loss(config, plain) == pytest.approx(before, abs=1e-4)


def test_the_command_line_trains_evaluates_and_refuses_to_merge(
    quantised: Quantised, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = quantised()
    flags = ["--model", config.model, "--task", "jsonl", "--data", str(config.data), "--quantize", "nf4"]
    training = ["--steps", "2", "--rank", "2", "--eval-limit", "0", "--dtype", "float32", "--out", config.out]
    assert main(["train", *flags, *training]) == 0
    assert "have 4 bits; the base takes" in capsys.readouterr().err
    for extra in (["--adapter", config.out], []):
        assert main(["eval", *flags, *extra, "--split", "test", "--limit", "2", "--json"]) == 0
    model, adapter = ["--model", config.model, "--quantize", "nf4"], ["--adapter", config.out]
    assert main(["generate", *model, *adapter, "--prompt", "say a:", "--max-new-tokens", "2"]) == 0
    assert main(["inspect", config.out, *model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["probe_logit_change"] > 0
    assert main(["merge", *model, *adapter, "--out", str(tmp_path / "merged")]) == 2
    assert "load the base without quantising it" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["full", "top2", "lora+full"])
def test_what_cannot_train_in_four_bits_is_refused(configured: Run, method: str) -> None:
    with pytest.raises(ll.SpecError, match="frozen in 4 bits"):
        configured(quantize="nf4", method=method).validate()


def test_a_block_in_four_bits_is_not_trained_in_full(configured: Run) -> None:
    with pytest.raises(ll.SpecError, match="3 dense layers that are quantised"):
        ll.train(configured(quantize="nf4", modules_to_save=("model.layers.0.mlp",)))
    model = build("llama")
    quantize_base(model, "nf4")
    with pytest.raises(ll.SpecError, match="full fine-tuning"):
        ll.attach(model, ll.FullFineTune())


def test_an_adapter_that_replaces_a_weight_is_refused_on_it(tmp_path: Path) -> None:
    plain, packed = build("llama"), build("llama")
    ll.save(ll.attach(plain, ll.FullFineTune(top_layers=1)), tmp_path / "full")
    quantize_base(packed, "nf4")
    with pytest.raises(ll.SpecError, match="does not hold it as a tensor"):
        ll.load(packed, tmp_path / "full")
    assert isinstance(packed.model.layers[2].mlp.up_proj, QuantizedLinear)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "deberta"])
@pytest.mark.parametrize("spec", [key for key in SPECS if key not in ("full", "top2")])
def test_every_other_method_starts_at_the_quantised_base_and_trains(name: str, spec: str) -> None:
    if (name, spec) == ("llama", "bitfit"):
        pytest.skip("a Llama has no biases")
    model = build(name)
    quantize_base(model, "nf4")
    ids = torch.arange(2, 14).view(2, 6)
    before = model(input_ids=ids).logits
    adapter = ll.attach(model, SPECS[spec])
    if "prefix" not in spec:
        assert torch.equal(model(input_ids=ids).logits, before)
    model(input_ids=ids).logits.square().sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in adapter.parameters() if each.grad is not None)
    assert any(each.grad is not None and each.grad.any() for each in adapter.parameters())
    assert all(isinstance(update, Update) for update in adapter.updates.values())


def test_rows_of_a_batch_have_their_own_adapters() -> None:
    model = build("gpt2")
    quantize_base(model, "nf4")
    ids = torch.arange(2, 14).view(2, 6)
    for name in ("one", "two"):
        adapter = ll.attach(model, ll.LoRA(rank=2), name)
        with torch.no_grad():
            for each in adapter.parameters():
                each.normal_()
    alone = []
    for row, name in enumerate(("one", "two")):
        ll.activate(model, name)
        alone.append(model(input_ids=ids[row : row + 1]).logits)
    with ll.rows(model, ["one", "two"]):
        assert torch.allclose(model(input_ids=ids).logits, torch.cat(alone), atol=1e-5)


def test_a_base_with_adapters_is_not_quantised() -> None:
    model = build("llama")
    ll.attach(model, ll.LoRA(rank=2), "there")
    with pytest.raises(ll.AdapterStateError, match="there"):
        quantize_base(model, "nf4")
    with pytest.raises(ll.SpecError, match="nf4-double"):
        quantize_base(build("llama"), "int3")


def test_planned_memory_counts_the_packed_weights(quantised: Quantised) -> None:
    memory = {}
    for quantize in (None, "nf4"):
        config = quantised(quantize=quantize)
        prepared = prepare(config, "float32")
        memory[quantize] = forecast(prepared, config)
        assert parameter_counts(prepared.trainee.adapter, prepared.loaded.model).base == sum(
            each.numel() for each in base(config).model.parameters()
        )
    layers = list(quantized_layers(base(quantised(), "nf4").model))
    saved = sum(4 * layer.weights - layer.packed_bytes for layer in layers)
    assert memory[None].weights - memory["nf4"].weights == saved
    assert memory["nf4"].activations - memory[None].activations == 6 * max(layer.weights for layer in layers)


def test_a_plan_says_the_same_without_weights() -> None:
    plain, packed, double = (
        ll.plan(ll.PlanConfig(model="llama-3-8b", quantize=quantize)) for quantize in (None, "nf4", "nf4-double")
    )
    assert packed.total_params == plain.total_params
    assert packed.trainable_params == plain.trainable_params
    assert double.memory.weights < packed.memory.weights < 0.5 * plain.memory.weights
