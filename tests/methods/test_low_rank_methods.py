"""What holds for every low-rank method on every family: the shared tests T1 to T9 and the table of first gradients."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaForSequenceClassification
from transformers.pytorch_utils import Conv1D

import loralab as ll
from loralab.core.updates.update import WHOLE
from loralab.methods.counts import parameter_counts
from methods.low_rank_cases import (
    BLOCKS,
    CASES,
    PAIRS,
    RANK,
    adapted,
    base_logits,
    base_of,
    close,
    is_untouched,
    kind_of,
    quiet_logits,
    trained,
)
from small_models import logits
from toys import give_effect

every_case = pytest.mark.parametrize("case", CASES)
every_pair = pytest.mark.parametrize("name, case", PAIRS)
EXACT = [case for case in CASES if CASES[case].exact]
NEARLY = [case for case in CASES if not CASES[case].exact]
PLAIN = [case for case in CASES if CASES[case].plain_rank is not None]
AT_START = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}
MERGED = {torch.float64: 1e-10, torch.float32: 1e-5}

starts = [(name, case, dtype) for name, case in PAIRS for dtype in (torch.float32, torch.bfloat16)]
starts += [("gpt2", case, torch.float64) for case in CASES]
merges = [(name, case, torch.float32) for name, case in PAIRS] + [("gpt2", case, torch.float64) for case in CASES]


# -- T1: the start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, case, dtype", [start for start in starts if start[1] in EXACT], ids=str)
def test_a_fresh_adapter_is_the_base_bit_for_bit(name: str, case: str, dtype: torch.dtype) -> None:
    model, adapter = adapted(name, case, dtype)
    assert torch.equal(quiet_logits(model), base_logits(name, dtype))
    assert all(tensor.dtype in (torch.float32, torch.float64) for _, tensor in adapter.named_tensors())


@pytest.mark.parametrize("name, case, dtype", [start for start in starts if start[1] in NEARLY], ids=str)
def test_a_fresh_pissa_is_the_base_to_rounding(name: str, case: str, dtype: torch.dtype) -> None:
    model, adapter = adapted(name, case, dtype)
    close(quiet_logits(model), base_logits(name, dtype), AT_START[dtype])
    assert all(tensor.dtype in (torch.float32, torch.float64) for _, tensor in adapter.named_tensors())


# -- T2, T3: merging -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, case, dtype", merges, ids=str)
def test_merged_is_live_and_unmerged_is_as_it_was(name: str, case: str, dtype: torch.dtype) -> None:
    model, adapter = adapted(name, case, dtype)
    base = base_logits(name, dtype)
    give_effect(adapter)
    live = quiet_logits(model)
    assert (live - base).abs().max() > 1e-3 * base.abs().max()
    report = ll.merge(model)
    assert all(change > 0 for change in report.changes.values())
    close(quiet_logits(model), live, MERGED[dtype])
    with ll.disabled(model):
        assert torch.equal(quiet_logits(model), base)
    ll.unmerge(model)
    assert torch.equal(quiet_logits(model), live)
    ll.detach(model)
    assert is_untouched(model, name, dtype)
    assert torch.equal(quiet_logits(model), base)


# -- T4: counts ------------------------------------------------------------------------------------------------------


@every_pair
def test_it_trains_as_many_parameters_as_its_formula_says(name: str, case: str) -> None:
    model, adapter = adapted(name, case)
    counts = parameter_counts(adapter, model)
    assert counts.method == CASES[case].count(BLOCKS[name])
    assert counts.head == (2 * 32 + 2 if name == "bert" else 0)
    assert counts.base == sum(parameter.numel() for parameter in base_of(name).parameters())


@pytest.fixture(scope="module")
def llama_7b() -> nn.Module:
    """LLaMA-7B and LLaMA-2-7B have these sizes; no weights."""
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig())


QKV, LINEAR = ["q_proj", "k_proj", "v_proj"], "all-linear"


@pytest.mark.parametrize(
    "spec, published",
    [
        (ll.VeRA(rank=1024, targets=LINEAR), 1_589_248),  # "1.6M"
        (ll.LoRA(rank=32, targets=[*QKV, "up_proj", "down_proj"]), 56_098_816),  # 0.83 % of 6.74B
        (ll.LoRA(rank=32, magnitude=True, targets=[*QKV, "up_proj", "down_proj"]), 56_098_816 + 876_544),  # 0.84 %
        (ll.LoRA(rank=32, freeze_a=True, targets=QKV), 32 * 3 * 32 * 4096),
        (ll.TiedLoRA(rank=8, targets=QKV, train="A,B"), 131_072),  # 96.875 % less than LoRA
        (ll.TiedLoRA(rank=8, targets=QKV), 524_544),  # 12.5 %
        (
            ll.MultiLoRA(rank=8, modules=8, targets=LINEAR),
            159_907_840 + 8 * 1_359_872,
        ),  # LoRA's at r = 64, and gates: 2.5 %
        (ll.LoRAXS(rank=8, targets=QKV), 32 * 3 * 64),
        (ll.LoRA(rank=32, init="pissa", targets=QKV), 32 * 3 * 32 * 8192),
    ],
    ids=str,
)
def test_published_counts_of_llama_7b(llama_7b: nn.Module, spec: object, published: int) -> None:
    adapter = ll.attach(llama_7b, spec)
    try:
        assert parameter_counts(adapter, llama_7b).method == published
        assert all(tensor.is_meta for _, tensor in adapter.named_tensors())
    finally:
        ll.detach(llama_7b)


def test_tied_lora_is_an_eighth_of_lora(llama_7b: nn.Module) -> None:
    """The paper's LoRA adapts the fused projection 4096→3·4096, whose q, k and v share an A: 4·d·r a layer."""
    with torch.device("meta"):
        fused = nn.ModuleDict(
            {"blocks": nn.ModuleList(nn.ModuleDict({"qkv": nn.Linear(4096, 12288)}) for _ in range(32))}
        )
    counts = {}
    for name, spec in {"lora": ll.LoRA(rank=8, targets="qkv"), "tied": ll.TiedLoRA(rank=8, targets="qkv")}.items():
        counts[name] = parameter_counts(ll.attach(fused, spec), fused).method
        ll.detach(fused)
    assert counts == {"lora": 4_194_304, "tied": 524_544}


@pytest.mark.parametrize(
    "size, rank, published",
    [("base", 1, 18_456), ("base", 16, 18_816), ("base", 256, 24_576), ("base", 1024, 43_008), ("large", 256, 61_440)],
)
def test_published_counts_of_vera_on_roberta(size: str, rank: int, published: int) -> None:
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    with torch.device("meta"):
        model = RobertaForSequenceClassification(RobertaConfig(**large if size == "large" else {}))
    adapter = ll.attach(model, ll.VeRA(rank=rank))
    assert parameter_counts(adapter, model).method == published


# -- T5: the first gradients -----------------------------------------------------------------------------------------


@every_pair
def test_the_first_gradients_are_those_of_the_table(name: str, case: str) -> None:
    model, adapter = adapted(name, case)
    model.train()
    result = logits(model)
    (result * torch.randn_like(result)).sum().backward()
    gradients = {key: parameter.grad for key, parameter in trained(adapter).items()}
    assert {kind_of(key) for key in gradients} == CASES[case].silent | CASES[case].moves
    for key, gradient in gradients.items():
        if gradient is None:
            assert key in adapter.sleepers, key
        else:
            assert bool(gradient.any()) == (kind_of(key) in CASES[case].moves), key
    silent = {key for key in gradients if kind_of(key) in CASES[case].silent}
    assert adapter.silent_at_first_step & gradients.keys() == silent


@pytest.mark.parametrize("case", ["adamix", "adamix, A shared", "adamix, none shared"])
def test_one_expert_of_a_side_is_chosen_and_the_others_have_no_gradient(case: str) -> None:
    model, adapter = adapted("llama", case)
    logits(model.train()).sum().backward()
    for path, update in adapter.updates.items():
        for side in ("lora_A", "lora_B"):
            woken = [tensor.grad is not None for name, tensor in update.named_tensors() if kind_of(name) == side]
            assert sum(woken) == 1, path


# -- T6: files -------------------------------------------------------------------------------------------------------


@every_case
def test_saved_and_loaded_it_is_the_same_adapter(case: str, tmp_path: Path) -> None:
    """PiSSA comes back as the plain LoRA that it is on the base, which then trains whole."""
    model, adapter = adapted("bert", case)
    give_effect(adapter)
    live, counts = quiet_logits(model), parameter_counts(adapter, model)
    ll.save(adapter, tmp_path, model=model)
    ll.detach(model)
    loaded = ll.load(model, tmp_path)
    close(quiet_logits(model), live, 0 if CASES[case].exact else 1e-6)
    assert loaded.matched == adapter.matched
    assert loaded.sleepers == adapter.sleepers
    deltas = [update.delta_of(part) for update in adapter.updates.values() for part in update.parts]
    comes_back_plain = "pissa" in case
    assert any(delta.stored_as_lora for delta in deltas) == comes_back_plain
    if not comes_back_plain:
        assert parameter_counts(loaded, model) == counts
        assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in adapter.named_parameters()}


def test_a_new_process_with_another_random_state_computes_the_same(tmp_path: Path) -> None:
    """All methods in one process, for it is the start of it that takes its time."""
    for name in ("llama", "gpt2"):
        for case in CASES:
            model, adapter = adapted(name, case)
            give_effect(adapter)
            ll.save(adapter, tmp_path / name / case, model=model)
            save_file({"logits": quiet_logits(model)}, tmp_path / name / f"{case}.safetensors")
    script = (
        "import torch, loralab as ll\n"
        "from pathlib import Path\n"
        "from safetensors.torch import load_file\n"
        "from methods.low_rank_cases import CASES, base_of, close, quiet_logits\n"
        "torch.manual_seed(99)\n"
        "for name in ('llama', 'gpt2'):\n"
        "    for case in CASES:\n"
        f"        folder, model = Path({str(tmp_path)!r}) / name, base_of(name)\n"
        "        ll.load(model, folder / case, 'default')\n"
        "        expected = load_file(folder / f'{case}.safetensors')['logits']\n"
        "        close(quiet_logits(model), expected, 0 if CASES[case].exact else 1e-6)\n"
        "        print(name, case)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(CASES)


# -- T7: what is frozen stays ------------------------------------------------------------------------------------------


@every_pair
def test_after_a_step_what_is_frozen_is_unchanged_and_what_trains_has_moved(name: str, case: str) -> None:
    model, adapter = adapted(name, case)
    give_effect(adapter)
    required = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert required == {id(parameter) for parameter in adapter.parameters()}
    before = {key: tensor.clone() for key, tensor in adapter.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    logits(model.train()).square().sum().backward()
    optimizer.step()
    for key, tensor in adapter.named_tensors():
        asleep = not tensor.requires_grad or tensor.grad is None
        assert torch.equal(tensor, before[key]) == asleep, key
    ll.detach(model)
    assert is_untouched(model, name)


# -- T8: dropout -------------------------------------------------------------------------------------------------------


@every_pair
def test_dropout_is_silent_in_evaluation(name: str, case: str) -> None:
    plain, adapter = adapted(name, case)
    give_effect(adapter)
    dropping, other = adapted(name, case, dropout=0.5)
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(quiet_logits(dropping), quiet_logits(plain))


@every_case
def test_dropout_speaks_in_training(case: str) -> None:
    plain, adapter = adapted("llama", case)
    give_effect(adapter)
    dropping, other = adapted("llama", case, dropout=0.5)
    other.load_state_dict(adapter.state_dict())
    outputs = []
    for model in (plain, dropping):
        torch.manual_seed(5)  # AdaMix draws its experts
        outputs.append(quiet_logits(model.train()))
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


# -- T9: weights stored transposed ---------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("outputs", [24, 16])
def test_a_layer_stored_transposed_is_the_same_layer(case: str, outputs: int) -> None:
    """In a square layer a wrong transposition has no wrong shape."""
    torch.manual_seed(2)
    layers = nn.Linear(16, outputs), Conv1D(outputs, 16)
    straight, transposed = (nn.ModuleDict({"layer": layer}).eval() for layer in layers)
    with torch.no_grad():
        transposed["layer"].weight.copy_(straight["layer"].weight.T)
        transposed["layer"].bias.copy_(straight["layer"].bias)
    adapters = [ll.attach(model, CASES[case].spec(targets=["layer"])) for model in (straight, transposed)]
    give_effect(adapters[0])
    adapters[1].load_state_dict(adapters[0].state_dict())
    x, direction = torch.randn(5, 16), torch.randn(5, outputs)
    results, gradients = [], []
    for model, adapter in zip((straight, transposed), adapters, strict=True):
        results.append(model["layer"](x))
        (results[-1] * direction).sum().backward()
        gradients.append([parameter.grad for parameter in adapter.parameters()])
        ll.merge(model)
        results.append(model["layer"](x).detach())
    for result in results[1:]:
        close(result, results[0], 1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs, 1e-5)


# -- the interface -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, case", [pair for pair in PAIRS if pair[1] in PLAIN])
def test_the_plain_pair_of_it_is_the_same_update(name: str, case: str) -> None:
    _, adapter = adapted(name, case)
    give_effect(adapter)
    for update in adapter.updates.values():
        for part in update.parts:
            A, scaled_B = update.delta_of(part).settled()
            plain = update.delta_of(part).as_lora()
            assert plain.recipe.rank == CASES[case].plain_rank == len(plain.lora_A)
            assert plain.recipe.scale == pytest.approx(update.delta_of(part).recipe.scale)
            close(plain.recipe.scale * plain.lora_B @ plain.lora_A, scaled_B @ A, 1e-6)


@every_case
def test_what_is_settled_has_no_gradient_and_no_chance(case: str) -> None:
    model, adapter = adapted("llama", case)
    give_effect(adapter)
    model.train()
    for update in adapter.updates.values():
        for part in update.parts:
            first, again = update.delta_of(part).settled(), update.delta_of(part).settled()
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            assert not any(factor.requires_grad for factor in first)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].plain_rank is None])
def test_what_is_no_sum_is_not_combined(case: str) -> None:
    model, adapter = adapted("llama", case)
    give_effect(adapter)
    with pytest.raises(ll.SpecError):
        ll.combine(model, {"default": 2.0}, "double")


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].plain_rank is not None])
def test_a_sum_with_itself_is_the_double_of_it(case: str) -> None:
    model, adapter = adapted("llama", case)
    give_effect(adapter)
    path, update = next(iter(adapter.updates.items()))
    (single,) = update.deltas(adapter.layers[path].base).values()
    (double,) = ll.combine(model, {"default": 2.0}, "double").updates[path].deltas(adapter.layers[path].base).values()
    close(double, 2 * single, 1e-5)


@every_case
def test_a_row_of_a_mixed_batch_is_as_if_alone(case: str) -> None:
    model, adapter = adapted("llama", case)
    give_effect(adapter)
    live = quiet_logits(model)
    other = ll.attach(model, ll.LoRA(rank=RANK), name="other")
    give_effect(other)
    others = quiet_logits(model)
    with ll.rows(model, ["default", "other"]):
        mixed = quiet_logits(model)
    close(mixed[0], live[0], 1e-5)
    close(mixed[1], others[1], 1e-5)
    assert (live[1] - others[1]).abs().max() > 1e-3
    with ll.rows(model, [None, "default"]):
        close(quiet_logits(model)[1], live[1], 1e-5)


@every_case
def test_a_copy_of_the_model_has_an_adapter_of_its_own(case: str) -> None:
    model, adapter = adapted("llama", case)
    give_effect(adapter)
    live = quiet_logits(model)
    twin = copy.deepcopy(model)
    assert torch.equal(quiet_logits(twin), live)
    give_effect(ll.adapters_of(twin).adapter("default"))
    assert not torch.equal(quiet_logits(twin), live)
    assert torch.equal(quiet_logits(model), live)


@every_case
def test_cast_to_half_precision_what_trains_stays_wide(case: str) -> None:
    model, adapter = adapted("gpt2", case)
    give_effect(adapter)
    live = quiet_logits(model)
    model.bfloat16()
    assert {tensor.dtype for _, tensor in adapter.named_tensors()} == {torch.float32}
    close(quiet_logits(model).float(), live, 5e-2)


CONVOLUTIONS = ("lora", "rslora", "dora", "dora, through the norm")
"""What adapts them too."""


def convolution_and_dense() -> nn.ModuleDict:
    return nn.ModuleDict({"layer": nn.Conv2d(8, 8, 3), "dense": nn.Linear(8, 8)})


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_are_adapted_by_those_that_can(case: str) -> None:
    spec = CASES[case].spec(targets=["layer", "dense"], rank=RANK)
    assert ll.attach(convolution_and_dense(), spec).matched == ["layer", "dense"]


@pytest.mark.parametrize("case", [case for case in CASES if case not in CONVOLUTIONS])
def test_what_is_no_dense_layer_is_refused_by_the_others(case: str) -> None:
    model = convolution_and_dense()
    spec = CASES[case].spec(targets=["layer", "dense"], rank=RANK)
    with pytest.raises(ll.TargetError, match=r"layer is a Conv2d.*dense layers"):
        ll.attach(model, spec)
    assert isinstance(model["dense"], nn.Linear)
    assert WHOLE in dict(model["layer"].named_parameters())
