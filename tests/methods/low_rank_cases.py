"""Every low-rank method with what the specification says of it, and three families to hold it on.

Beside each method: how many parameters it trains by the formula, and which of its tensors the very first backward pass
moves. Models have weights five times the usual, so that what a layer computes shows in the logits.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import loralab as ll
from loralab.core.adapter import SHARED, Adapter
from loralab.core.attach import Method
from small_models import CLASSIFIER, NO_ENDS, llama, logits

RANK = 4
VERA_RANK = 40
"""More than the width of a layer, which VeRA alone may have."""
MODULES = 3
EXPERTS = 3

Block = Sequence[tuple[int, int]]
"""(outputs, inputs) of the adapted matrices of one block."""

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": partial(llama, num_hidden_layers=2),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=64, **NO_ENDS)
    ),
    "bert": lambda: BertForSequenceClassification(BertConfig(**CLASSIFIER | {"num_hidden_layers": 2})),
}
BLOCKS: dict[str, list[Block]] = {
    "llama": [[(32, 32), (16, 32)]] * 2,  # q and, with half as many heads, v
    "gpt2": [[(32, 32), (32, 32)]] * 2,  # two thirds of a Conv1D 32→96
    "bert": [[(32, 32), (32, 32)]] * 2,
}
"""What the methods adapt by default; a BERT classifier trains its head in full beside."""


@dataclass(frozen=True)
class LowRankCase:
    """A method, its formula, and its row of the table of first gradients."""

    spec: Callable[..., Any]
    count: Callable[[Sequence[Block]], int]
    silent: frozenset[str]
    """Kinds of tensors whose first gradient is exactly zero."""
    moves: frozenset[str]
    """Kinds of tensors whose first gradient is not."""
    exact: bool = True
    """Whether a fresh adapter is the base bit for bit; PiSSA's is to a tolerance."""
    plain_rank: int | None = RANK
    """The rank of the plain LoRA with the same ΔW; None where there is none."""


def matrices(blocks: Sequence[Block], each: Callable[[int, int], int]) -> int:
    """The sum over all adapted matrices of a number that depends on (outputs, inputs)."""
    return sum(each(outputs, inputs) for block in blocks for outputs, inputs in block)


def factors(blocks: Sequence[Block]) -> int:
    """Σ r·(in + out)."""
    return matrices(blocks, lambda outputs, inputs: RANK * (inputs + outputs))


def outputs_of(blocks: Sequence[Block]) -> int:
    """Σ out."""
    return matrices(blocks, lambda outputs, inputs: outputs)


def tied(a: bool, b: bool, uv: bool) -> Callable[[Sequence[Block]], int]:
    """[A] r·in + [B] Σ r·out of one block + [u and v] Σ over blocks of r + Σ out: q and v share A and u."""

    def count(blocks: Sequence[Block]) -> int:
        outputs, inputs = [outputs for outputs, _ in blocks[0]], blocks[0][0][1]
        vectors = sum(RANK + sum(outputs for outputs, _ in block) for block in blocks)
        return RANK * inputs * a + RANK * sum(outputs) * b + vectors * uv

    return count


def experts(count_A: int, count_B: int) -> Callable[[Sequence[Block]], int]:
    """Σ n_A·r·in + n_B·r·out."""
    return lambda blocks: matrices(blocks, lambda outputs, inputs: RANK * (count_A * inputs + count_B * outputs))


def gated(gates: Callable[[int], int]) -> Callable[[Sequence[Block]], int]:
    """Σ n·(r·(in + out) + gates)."""
    return lambda blocks: matrices(
        blocks, lambda outputs, inputs: MODULES * (RANK * (inputs + outputs) + gates(outputs))
    )


def _case(spec: Callable[..., Any], count: Any, silent: str, moves: str, **more: Any) -> LowRankCase:
    return LowRankCase(spec, count, frozenset(silent.split()), frozenset(moves.split()), **more)


LORA = partial(ll.LoRA, rank=RANK)
DORA = partial(LORA, magnitude=True)
TIED = partial(ll.TiedLoRA, rank=RANK)
MULTI = partial(ll.MultiLoRA, rank=RANK, alpha=6.0, modules=MODULES)
ADAMIX = partial(ll.AdaMix, rank=RANK, experts=EXPERTS)
M = "lora_magnitude_vector"


def with_lengths(blocks: Sequence[Block]) -> int:
    """Σ r·(in + out) + out."""
    return factors(blocks) + outputs_of(blocks)


CASES: dict[str, LowRankCase] = {
    "lora": _case(LORA, factors, "lora_A", "lora_B"),
    "rslora": _case(partial(LORA, rank_stabilized=True), factors, "lora_A", "lora_B"),
    "lora-fa": _case(partial(LORA, freeze_a=True), outputs_of_rank := lambda b: RANK * outputs_of(b), "", "lora_B"),
    "dora": _case(DORA, with_lengths, "lora_A", f"lora_B {M}", plain_rank=None),
    "dora, through the norm": _case(
        partial(DORA, through_norm=True), with_lengths, "lora_A", f"lora_B {M}", plain_rank=None
    ),
    "dora-fa": _case(
        partial(DORA, freeze_a=True), lambda b: outputs_of_rank(b) + outputs_of(b), "", f"lora_B {M}", plain_rank=None
    ),
    "pissa": _case(partial(LORA, init="pissa"), factors, "", "lora_A lora_B", exact=False, plain_rank=2 * RANK),
    "pissa-4": _case(partial(LORA, init="pissa-4"), factors, "", "lora_A lora_B", exact=False, plain_rank=2 * RANK),
    "rs-pissa": _case(
        partial(LORA, init="pissa", rank_stabilized=True, alpha=3.0),
        factors, "", "lora_A lora_B", exact=False, plain_rank=2 * RANK,
    ),
    "dora on pissa": _case(
        partial(DORA, init="pissa"), with_lengths, "", f"lora_A lora_B {M}", exact=False, plain_rank=None
    ),
    "vera": _case(
        partial(ll.VeRA, rank=VERA_RANK),
        lambda blocks: matrices(blocks, lambda outputs, inputs: outputs + VERA_RANK),
        "vera_lambda_d", "vera_lambda_b", plain_rank=VERA_RANK,
    ),
    "tied, all": _case(TIED, tied(True, True, True), "A u tied_v", "B"),
    "tied, A and B": _case(partial(TIED, train="A,B"), tied(True, True, False), "A", "B"),
    "tied, u and v": _case(partial(TIED, train=("u", "v")), tied(False, False, True), "u", "tied_v"),
    "tied, B frozen": _case(partial(TIED, train="A,u,v"), tied(True, False, True), "A u", "tied_v"),
    "multilora": _case(
        MULTI, gated(lambda outputs: outputs), "lora_A lora_B", "lora_scaling", plain_rank=MODULES * RANK
    ),
    "multilora, scalar gates": _case(
        partial(MULTI, gate="scalar", rank_stabilized=True),
        gated(lambda outputs: 1), "lora_A lora_B", "lora_scaling", plain_rank=MODULES * RANK,
    ),
    "adamix": _case(ADAMIX, experts(EXPERTS, 1), "lora_A", "lora_B"),
    "adamix, A shared": _case(partial(ADAMIX, share="A"), experts(1, EXPERTS), "lora_A", "lora_B"),
    "adamix, none shared": _case(partial(ADAMIX, share="none"), experts(EXPERTS, EXPERTS), "lora_A", "lora_B"),
    "lora-xs": _case(
        partial(ll.LoRAXS, rank=RANK), lambda blocks: matrices(blocks, lambda outputs, inputs: RANK**2), "", "lora_M"
    ),
}  # fmt: skip


VARIANTS = (
    "rslora", "dora, through the norm", "dora-fa", "pissa-4", "rs-pissa", "tied, A and B", "tied, B frozen",
    "multilora, scalar gates", "adamix, A shared", "adamix, none shared",
)  # fmt: skip
PAIRS = [(name, case) for name in BLOCKS for case in CASES if name == "gpt2" or case not in VARIANTS]
"""Every method on every family, its variants on one."""


def kind_of(name: str) -> str:
    """What a tensor is, by its name: `lora_A` of `….q.lora_A` or of an expert's `….lora_A_2`, `u` of `shared.u/…`."""
    if name.startswith(f"{SHARED}."):
        return name.removeprefix(f"{SHARED}.").partition("/")[0]
    leaf = name.rpartition(".")[2]
    stem, _, number = leaf.rpartition("_")
    return stem if number.isdigit() else leaf


def trained(adapter: Adapter) -> dict[str, nn.Parameter]:
    """The method's parameters by name, without the task's head."""
    return {name: parameter for name, parameter in adapter.named_parameters() if not adapter.in_head(name)}


@cache
def _pristine(name: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5)
    return model.to(dtype)


def base_of(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model of this family in evaluation mode, the same in every call."""
    return copy.deepcopy(_pristine(name, dtype))


@cache
def base_logits(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """What that model computes."""
    return quiet_logits(base_of(name, dtype))


def is_untouched(model: nn.Module, name: str, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a model without adapters holds the very names and values that it had at first."""
    state, before = model.state_dict(), _pristine(name, dtype).state_dict()
    return state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in state)


def adapted(name: str, case: str, dtype: torch.dtype = torch.float32, **fields: Any) -> tuple[nn.Module, Adapter]:
    """(the model, a fresh adapter on it), the same in every call."""
    model = base_of(name, dtype)
    torch.manual_seed(1)
    spec: Method = CASES[case].spec(**fields)
    return model, ll.attach(model, spec)


def quiet_logits(model: nn.Module) -> Tensor:
    """The logits of two padded sequences, without a graph."""
    with torch.no_grad():
        return logits(model)


def close(actual: Tensor, expected: Tensor, relative: float) -> None:
    """Equal to a fraction of the largest number expected."""
    tolerance = relative * float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
