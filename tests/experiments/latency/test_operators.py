"""Proof that merged LoRA executes what the base does, and that the proof can fail."""

import pytest
import torch

from loralab.experiments.latency.config import InputSize
from loralab.experiments.latency.contenders import Contender, contenders
from loralab.experiments.latency.measure import count_operators
from loralab.experiments.latency.model import TimedModel, forward_pass
from loralab.experiments.latency.operators import Execution, Operator, compare_operators, record
from small_models import build, logits

AMONG = contenders(rank=2, sizes=(4, 8))


def by_name(name: str, size: int = 0) -> Contender:
    return next(each for each in AMONG if each == Contender(name, size))


@pytest.mark.parametrize("model", ["llama", "gpt2", "bert"])
def test_merged_is_the_base_and_the_others_are_not(model: str) -> None:
    timed = TimedModel(build(model), True, torch.float32, ())
    parameters, found = count_operators(timed, AMONG, InputSize(2, 16))
    equal = {name for name, each in found.items() if each.equal}
    assert equal == {"base", "base-again", "lora-merged 2", "lora-deployed 2"}
    assert all(found[name].extra_operators == 0 for name in equal)
    live = found["lora-live 2"]
    assert live.extra_operators > 0
    # x·Aᵀ and ·Bᵀ of every adapted module: two FLOPs for each parameter and token, more where B is within c_attn's.
    least = 2 * parameters[by_name("lora-live", 2)] * 2 * 16
    assert live.extra_flops > least if model == "gpt2" else live.extra_flops == least
    assert found["adapter-h 8"].extra_flops == 2 * found["adapter-h 4"].extra_flops
    assert parameters[by_name("adapter-h", 4)] > parameters[by_name("adapter-l", 4)] > 0


@pytest.mark.parametrize("contender", AMONG, ids=str)
def test_every_contender_leaves_the_base_bit_for_bit(contender: Contender) -> None:
    model = build("gpt2").requires_grad_(False)
    before, tensors = logits(model), dict(model.named_parameters())
    modules = list(model.modules())
    with contender.standing(model):
        during = logits(model)
    assert torch.equal(logits(model), before)
    assert all(tensor is tensors[name] for name, tensor in model.named_parameters())
    assert all(one is other for one, other in zip(model.modules(), modules, strict=True))
    changes = contender.name in ("lora-merged", "lora-deployed")
    assert torch.equal(during, before) is not changes, "merging is real; fresh adapters do nothing, at full cost"


def test_live_adapters_compute_in_the_dtype_of_the_base() -> None:
    model = build("llama").to(torch.bfloat16)
    with by_name("adapter-h", 4).standing(model):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_forward_pass_is_without_autograd_and_cache_and_always_the_same() -> None:
    model = build("llama")
    model.config.use_cache = False
    call = forward_pass(model, InputSize(2, 5))
    output = call()
    assert output.logits.shape == (2, 5, 64)
    assert output.logits.is_inference()
    assert output.past_key_values is None
    assert torch.equal(call().logits, output.logits)


def test_layout_and_dtype_count() -> None:
    matrix = torch.ones(3, 3)
    base, same, other, narrow = (
        record(lambda x=x: torch.relu(x)) for x in (matrix, matrix + 1, (matrix + 1).T, matrix.bfloat16())
    )
    found = compare_operators(base, {"same": same, "transposed": other, "bfloat16": narrow})
    assert {name: each.equal for name, each in found.items()} == {"same": True, "transposed": False, "bfloat16": False}


def test_order_counts() -> None:
    one, two = Operator("a", ()), Operator("b", ())
    found = compare_operators(Execution((one, two), 5), {"x": Execution((two, one), 7)})["x"]
    assert (found.equal, found.extra_operators, found.extra_flops) == (False, 0, 2)
