"""Putting adapters on, switching them, taking them off; what is refused."""

import copy

import pytest
import torch
from torch import nn

import loralab as ll
from loralab.models.checkpointing import compute_blocks_again
from toys import TOYS, give_effect, quiet


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def test_attach_names_what_it_matched_and_activates() -> None:
    model = mlp()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["0", "2"]), name="sql")
    assert adapter.matched == ["0", "2"]
    assert [name for name, _ in adapter.named_parameters()] == ["0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B"]
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in adapter.parameters()}


def test_switching_between_adapters_and_the_base() -> None:
    model, x = mlp(), torch.randn(2, 6)
    base, outputs = quiet(model, x), {}
    for name in ("v1.0", "keys"):
        give_effect(ll.attach(model, ll.LoRA(rank=2, targets="0"), name=name))
        outputs[name] = quiet(model, x)
    ll.activate(model, "v1.0")
    assert torch.equal(quiet(model, x), outputs["v1.0"])
    ll.activate(model, None)
    assert torch.equal(quiet(model, x), base)


def test_detaching_one_leaves_the_others() -> None:
    model, x = mlp(), torch.randn(2, 6)
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets="0"), name="a"))
    with_a = quiet(model, x)
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets=["0", "2"]), name="b"))
    ll.detach(model, "b")
    ll.activate(model, "a")
    assert torch.equal(quiet(model, x), with_a)
    assert type(model[2]) is nn.Linear


def test_a_failed_attach_leaves_the_model_as_it_was() -> None:
    model = mlp()
    with pytest.raises(ll.TargetError):
        ll.attach(model, ll.LoRA(rank=2, targets=["0", "nowhere"]))
    with pytest.raises(ll.SpecError, match="rank 4"):
        ll.attach(model, ll.LoRA(rank=4, targets=["0", "2"]))
    assert [type(child) for child in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ll.AdapterStateError, match="no adapters"):
        ll.activate(model, None)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "@x"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ll.SpecError, match="name"):
        ll.attach(mlp(), ll.LoRA(rank=2, targets="0"), name=name)


def test_unknown_and_taken_names_are_errors() -> None:
    model = mlp()
    ll.attach(model, ll.LoRA(rank=2, targets="0"), name="a")
    with pytest.raises(ll.UnknownAdapterError, match=r"no adapter 'b' on this model.*'a'"):
        ll.activate(model, "b")
    with pytest.raises(ll.AdapterStateError, match="already"):
        ll.attach(model, ll.LoRA(rank=2, targets="0"), name="a")
    with pytest.raises(LookupError), ll.rows(model, ["a", "b"]):
        pass


def test_rows_must_be_as_many_as_the_batch() -> None:
    model = mlp()
    ll.attach(model, ll.LoRA(rank=2, targets="0"), name="a")
    with ll.rows(model, ["a", None]), pytest.raises(ll.SpecError, match=r"2 sequences.*batch of 4"):
        model(torch.randn(4, 6))
    assert model(torch.randn(4, 6)).shape == (4, 3)


def test_a_module_shared_by_two_parents_is_adapted_in_both_places() -> None:
    shared = nn.Linear(6, 6)
    model, x = nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 6)
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets="0")))
    assert model[0] is model[2]
    ll.detach(model)
    assert model[0] is shared
    assert model[2] is shared
    assert torch.equal(quiet(model, x), quiet(nn.Sequential(shared, nn.ReLU(), shared), x))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own doing
def test_a_compiled_model_is_adapted_under_its_plain_names() -> None:
    inner, x = mlp(), torch.randn(2, 6)
    model = torch.compile(inner, backend="aot_eager")
    base = quiet(model, x)
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="0"))
    assert adapter.matched == ["0"]
    give_effect(adapter)
    live = quiet(model, x)
    assert (live - base).abs().max() > 1e-3
    torch.testing.assert_close(live, quiet(inner, x))
    model(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapter.parameters())


def test_a_compiled_layer_inside_the_model_is_adapted_too() -> None:
    model, x = mlp(), torch.randn(2, 6)
    model[0] = torch.compile(model[0], backend="eager")
    base = quiet(model, x)
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="0"))
    give_effect(adapter)
    assert adapter.matched == ["0"]
    live = quiet(model, x)
    assert (live - base).abs().max() > 1e-3
    ll.merge(model)
    torch.testing.assert_close(quiet(model, x), live)


def test_a_fused_encoder_layer_does_not_pass_its_adapters_by() -> None:
    model = nn.ModuleDict({"layer": nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)}).eval()
    model.forward = lambda x: model["layer"](x)  # type: ignore[method-assign]
    x = torch.randn(2, 5, 16)
    base = quiet(model, x)
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets=["linear1", "self_attn"])))
    live = quiet(model, x)
    assert (live - base).abs().max() > 1e-2
    ll.merge(model)
    torch.testing.assert_close(quiet(model, x), live)
    with ll.disabled(model):
        assert torch.equal(quiet(model, x), base)


def test_a_deep_copy_has_adapters_of_its_own() -> None:
    model, x = mlp(), torch.randn(2, 6)
    give_effect(ll.attach(model, ll.LoRA(rank=2, targets="0"), name="a"))
    live, twin = quiet(model, x), copy.deepcopy(model)
    ll.activate(model, None)
    assert torch.equal(quiet(twin, x), live)
    ll.detach(twin)
    assert type(twin[0]) is nn.Linear


def test_adapters_stay_float32_when_the_model_is_cast() -> None:
    model = mlp()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="0"))
    model.to(torch.bfloat16)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    assert model(torch.randn(2, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_dropout_acts_on_the_low_rank_path_in_training_only() -> None:
    model, x = mlp(), torch.randn(64, 6)
    adapter = ll.attach(model, ll.LoRA(rank=2, targets="2", dropout=0.5))
    assert torch.equal(model.train()(x), model(x))
    give_effect(adapter, std=1.0)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_autocast_computes_the_update_as_the_base() -> None:
    model, x = mlp(), torch.randn(4, 6)
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["0", "2"]))
    give_effect(adapter)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    torch.testing.assert_close(y.float(), model(x), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_every_factor_its_gradient(reentrant: bool) -> None:
    toy = TOYS["llama"]
    model, tokens = toy.build(), toy.inputs(torch.float32)
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=["q_proj", "v_proj"]))
    give_effect(adapter)
    compute_blocks_again(model.inner, reentrant=reentrant)
    if reentrant:
        model.inner.enable_input_require_grads()
    model.train()(tokens).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapter.parameters())


def test_an_adapter_says_in_one_line_what_it_is_and_whether_it_speaks() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    a = ll.attach(model, ll.LoRA(rank=2, targets=["0", "2"]), name="a")
    b = ll.attach(model, ll.LoRA(rank=1, targets=["0"]), name="b")
    assert repr(a) == "Adapter('a': LoRA, rank 2, 2 modules, 50 parameters, inactive)"
    assert repr(b) == "Adapter('b': LoRA, rank 1, 1 module, 14 parameters, live)"
    with ll.rows(model, ["a", None]):
        assert (repr(a).split()[-1], repr(b).split()[-1]) == ("live)", "inactive)")
    ll.merge(model, "a")
    assert (repr(a).split()[-1], repr(b).split()[-1]) == ("merged)", "inactive)")
    ll.unmerge(model)
    ll.detach(model, "a")
    assert repr(a).endswith("detached)")
    ll.attach(model, ll.BitFit(), name="a")
    assert repr(a).endswith("detached)")


def test_a_joint_adapter_names_its_methods() -> None:
    adapter = ll.attach(nn.Sequential(nn.Linear(6, 8)), [ll.LoRA(rank=2, targets=["0"]), ll.BitFit()])
    assert repr(adapter) == "Adapter('default': LoRA + BitFit, rank 2, 1 module, 36 parameters, live)"


@pytest.mark.parametrize("targets", [["attn"], ["attn.out_proj"]])
def test_an_attention_and_its_output_in_full_are_one_too_many(targets: list[str]) -> None:
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2)})
    with pytest.raises(ll.SpecError, match=r"attn is adapted and attn\.out_proj inside it is adapted as well"):
        ll.attach(model, ll.LoRA(rank=1, targets=targets, modules_to_save=["attn.out_proj"]))
    assert type(model["attn"].out_proj) is type(nn.MultiheadAttention(4, 2).out_proj)
