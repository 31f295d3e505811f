"""What holds for every method on every family: it starts and ends as the base, trains what it says, and comes back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import loralab as ll
from loralab.formats.sidecar import file_sha256
from loralab.methods.counts import parameter_counts
from small_models import PAIRS, SPECS, build, logits
from toys import give_effect

INSERTING = [pair for pair in PAIRS if "prefix" in pair[1]]
MERGEABLE = ("lora", "full", "top2", "bitfit")


@pytest.mark.parametrize("name, spec", [pair for pair in PAIRS if pair not in INSERTING])
def test_a_fresh_adapter_is_the_base_bit_for_bit(name: str, spec: str) -> None:
    model = build(name)
    before = logits(model)
    ll.attach(model, SPECS[spec])
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name, spec", PAIRS)
def test_disabled_and_detached_are_the_base_bit_for_bit(name: str, spec: str) -> None:
    model = build(name)
    before = logits(model)
    give_effect(ll.attach(model, SPECS[spec]))
    assert not torch.equal(logits(model), before)
    with ll.disabled(model):
        assert torch.equal(logits(model), before)
    ll.detach(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name, spec", PAIRS)
def test_exactly_the_adapter_trains(name: str, spec: str) -> None:
    model = build(name)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapter = ll.attach(model, SPECS[spec])
    give_effect(adapter)
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    logits(model).square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    optimizer.step()
    assert all(not torch.equal(before[name], tensor) for name, tensor in adapter.state_dict().items())
    ll.detach(model)
    assert all(torch.equal(base[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name, spec", PAIRS)
def test_the_first_gradient_is_zero_where_the_method_says_so_and_nowhere_else(name: str, spec: str) -> None:
    model = build(name)
    adapter = ll.attach(model, SPECS[spec])
    (logits(model) * torch.randn(logits(model).shape)).sum().backward()
    silent = adapter.silent_at_first_step
    for parameter_name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, parameter_name
        if parameter_name in silent:
            assert not parameter.grad.any(), parameter_name
        elif "key" not in parameter_name:  # a key's bias moves all scores of a query alike: no gradient but rounding
            assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name, spec", PAIRS)
def test_saved_and_loaded_it_computes_the_same(name: str, spec: str, tmp_path: Path) -> None:
    model = build(name)
    adapter = ll.attach(model, SPECS[spec])
    give_effect(adapter)
    live, counts = logits(model), parameter_counts(adapter, model)
    ll.save(adapter, tmp_path, model=model)
    ll.detach(model)
    loaded = ll.load(model, tmp_path)
    assert torch.equal(logits(model), live)
    assert parameter_counts(loaded, model) == counts
    assert loaded.matched == adapter.matched


@pytest.mark.parametrize("spec", SPECS)
def test_loading_is_strict(spec: str, tmp_path: Path) -> None:
    model = build("gpt2")
    ll.save(ll.attach(model, SPECS[spec]), tmp_path, model=model)
    ll.detach(model)
    file, sidecar = tmp_path / "adapter_model.safetensors", tmp_path / "loralab.json"
    tensors, before = load_file(file), file_sha256(file)
    del tensors[min(tensors)]
    save_file(tensors, file)
    sidecar.write_text(sidecar.read_text().replace(before, file_sha256(file)))
    with pytest.raises(ll.AdapterFileError, match="missing"):
        ll.load(model, tmp_path)
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "full"])
def test_another_base_is_refused(spec: str, tmp_path: Path) -> None:
    model = build("gpt2")
    ll.save(ll.attach(model, SPECS[spec]), tmp_path, model=model)
    torch.manual_seed(1)
    other = type(model)(model.config)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    with pytest.raises(ll.FingerprintError):
        ll.load(other, tmp_path)


@pytest.mark.parametrize("name, spec", PAIRS)
def test_what_changes_weights_merges_and_what_does_not_refuses(name: str, spec: str) -> None:
    model = build(name)
    give_effect(ll.attach(model, SPECS[spec]))
    live = logits(model)
    if spec in MERGEABLE:
        ll.merge(model)
        torch.testing.assert_close(logits(model), live, rtol=1e-5, atol=1e-5)
        ll.unmerge(model)
    else:
        with pytest.raises(ll.AdapterStateError, match="keep it live"):
            ll.merge(model)
    assert torch.equal(logits(model), live)


@pytest.mark.parametrize("spec", ["full", "prefix-layer", "adapter-l"])
def test_a_new_process_with_another_random_state_computes_the_same(spec: str, tmp_path: Path) -> None:
    model = build("gpt2")
    adapter = ll.attach(model, SPECS[spec])
    give_effect(adapter)
    ll.save(adapter, tmp_path / "adapter", model=model)
    save_file({"logits": logits(model).detach()}, tmp_path / "live.safetensors")
    script = (
        "import torch, loralab as ll\nfrom safetensors.torch import load_file\nfrom small_models import build, logits\n"
        f"model = build('gpt2'); torch.manual_seed(99); ll.load(model, {str(tmp_path / 'adapter')!r})\n"
        f"assert torch.equal(logits(model), load_file({str(tmp_path / 'live.safetensors')!r})['logits'])\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent.parent)
