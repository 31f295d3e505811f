"""EVA against PEFT's own: the same ranks, the same directions, the same scales, on the same batches."""

import copy
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.eva import initialize_lora_eva_weights
from torch import Tensor, nn

import loralab as ll
from loralab.methods.eva.method import attach_eva
from oracle.peft_warnings import silenced
from small_models import build

pytestmark = [
    *silenced,
    pytest.mark.filterwarnings("ignore:lora with eva initialization used with low_cpu_mem_usage=False:UserWarning"),
]
TARGETS = {
    "llama": ["q_proj", "v_proj", "o_proj", "down_proj"],
    "gpt2": ["mlp.c_fc", "mlp.c_proj"],
    "bert": ["query", "value", "output.dense"],
}
Places = dict[str, tuple[Tensor, float]]
"""Path → (A, scale)."""


def batch() -> dict[str, Tensor]:
    """Tokens with padding and with labels on some of them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (8, 24), generator=generator)
    mask = (torch.arange(24) < torch.arange(17, 25)[:, None]).long()
    labels = ids.masked_fill((mask == 0) | (torch.arange(24) < 4), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def theirs(model: nn.Module, targets: list[str], data: list[dict[str, Tensor]], **fields: Any) -> Places:
    config = LoraConfig(
        r=3, lora_alpha=7, target_modules=targets, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0, **fields),
        fan_in_fan_out=model.config.model_type == "gpt2",
    )  # fmt: skip
    peft = get_peft_model(copy.deepcopy(model), config)

    def forward(inner: nn.Module, given: dict[str, Tensor]) -> Any:
        return inner(**{name: tensor for name, tensor in given.items() if name != "labels"})

    initialize_lora_eva_weights(peft, data, forward_fn=forward, show_progress_bar=False)
    return {
        path.removeprefix("base_model.model."): (module.lora_A["default"].weight.detach(), module.scaling["default"])
        for path, module in peft.named_modules()
        if hasattr(module, "lora_A")
    }


def ours(model: nn.Module, targets: list[str], data: list[dict[str, Tensor]], **fields: Any) -> Places:
    adapter = attach_eva(copy.deepcopy(model), ll.LoRA(rank=3, alpha=7, targets=targets), data, **fields)
    return {
        path: (update.factors_of("weight").lora_A.detach(), update.factors_of("weight").recipe.scale)
        for path, update in adapter.updates.items()
        if len(update.parts)
    }


def smallest_cosine(first: Tensor, second: Tensor) -> float:
    """Of the principal angles between two row spaces, the cosine of the largest."""
    Q, P = (torch.linalg.qr(rows.double().T).Q for rows in (first, second))
    return float(torch.linalg.svdvals(Q.T @ P).min())


@pytest.mark.parametrize("model_name", TARGETS)
def test_one_batch_twice_gives_pefts_ranks_directions_and_scales(model_name: str) -> None:
    """PEFT keeps only the components that it needs, by a random SVD: on one batch that loses nothing."""
    model, data = build(model_name), [batch(), batch()]
    mine, other = (side(model, TARGETS[model_name], data) for side in (ours, theirs))
    assert {path: len(A) for path, (A, _) in mine.items()} == {path: len(A) for path, (A, _) in other.items()}
    assert len({len(A) for A, _ in mine.values()}) > 1
    for path, (A, scale) in mine.items():
        assert scale == pytest.approx(other[path][1])
        assert smallest_cosine(A, other[path][0]) > 0.999
        assert (A * other[path][0]).sum(1).abs().min() > 0.99


def test_whitened_rows_are_pefts() -> None:
    """Of layers with an input of their own: where q and v share one, PEFT 0.21.2 divides in place, and so twice."""
    model, data = build("llama"), [batch(), batch()]
    mine, other = (side(model, ["o_proj", "down_proj"], data, whiten=True) for side in (ours, theirs))
    for path, (A, _) in mine.items():
        torch.testing.assert_close(A.norm(dim=1), other[path][0].norm(dim=1), rtol=1e-2, atol=0)


def test_without_the_label_mask_it_is_pefts_without_it() -> None:
    model, data = build("llama"), [batch(), batch()]
    mine = ours(model, TARGETS["llama"], data, label_mask=False)
    other = theirs(model, TARGETS["llama"], data, use_label_mask=False)
    masked = ours(model, TARGETS["llama"], data)
    cosines = [smallest_cosine(A, other[path][0]) for path, (A, _) in mine.items() if len(A) == len(other[path][0])]
    assert len(cosines) == len(mine) == len(other)
    assert min(cosines) > 0.999
    assert min(smallest_cosine(A, masked[path][0]) for path, (A, _) in mine.items() if path in masked) < 0.99
