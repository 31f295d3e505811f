"""Small models, one for each kind of layer that can be adapted, and a way to give an adapter an effect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.pytorch_utils import Conv1D

from loralab.core.adapter import Adapter


class Sandwich(nn.Module):
    """One layer between two linear ones, so that gradients and updates pass through it."""

    def __init__(self, inner: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(16, width)
        self.inner = inner
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.inner, torch.tanh(self.first(x)))


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Embedding(32, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.inner(tokens))


def _through(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def _channels_second(module: nn.Module, x: Tensor) -> Tensor:
    return module(x.transpose(1, 2)).transpose(1, 2)


def _as_image(module: nn.Module, x: Tensor) -> Tensor:
    return module(x.transpose(1, 2).unflatten(2, (2, 4)))


def _as_volume(module: nn.Module, x: Tensor) -> Tensor:
    return module(x.transpose(1, 2).unflatten(2, (2, 2, 2)))


def _attend(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, x, x, need_weights=False)[0]


def _attend_batch_second(module: nn.Module, x: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    return module(x, x, x)[0].transpose(0, 1)


@dataclass(frozen=True)
class Toy:
    """How to build a model, what to target in it, and what it eats."""

    build: Callable[[], nn.Module]
    targets: tuple[str, ...]
    tokens: bool = False

    def inputs(self, dtype: torch.dtype, batch: int = 4) -> Tensor:
        if self.tokens:
            return torch.randint(0, 32, (batch, 8))
        return torch.randn(batch, 8, 16, dtype=dtype)


def _mha(**kwargs: Any) -> nn.Module:
    return nn.MultiheadAttention(16, 2, **kwargs)


def llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    return _Logits(LlamaForCausalLM(config))


def mixtral() -> nn.Module:
    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=32,
        experts_implementation="eager",
    )  # fmt: skip
    return _Logits(MixtralForCausalLM(config))


class _Logits(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(input_ids=tokens).logits


TOYS: dict[str, Toy] = {
    "linear": Toy(lambda: Sandwich(nn.Linear(16, 12), _through), ("inner",)),
    "linear without bias": Toy(lambda: Sandwich(nn.Linear(16, 12, bias=False), _through), ("inner",)),
    "conv1d of transformers": Toy(lambda: Sandwich(Conv1D(12, 16), _through), ("inner",)),
    "fused thirds": Toy(lambda: Sandwich(nn.Linear(16, 48), _through), ("inner[q,v]",)),
    "fused thirds, stored transposed": Toy(lambda: Sandwich(Conv1D(48, 16), _through), ("inner[k]",)),
    "embedding": Toy(Lookup, ("inner",), tokens=True),
    "conv1d": Toy(lambda: Sandwich(nn.Conv1d(16, 8, 3, padding=2, dilation=2), _channels_second), ("inner",)),
    "conv2d": Toy(lambda: Sandwich(nn.Conv2d(16, 8, (1, 3), stride=(1, 2), padding="valid"), _as_image), ("inner",)),
    "conv2d, groups": Toy(lambda: Sandwich(nn.Conv2d(16, 8, 2, groups=2, padding=1), _as_image), ("inner",)),
    "conv2d, same, reflected": Toy(
        lambda: Sandwich(nn.Conv2d(16, 8, (1, 3), padding="same", padding_mode="reflect"), _as_image), ("inner",)
    ),
    "conv3d, groups, circular": Toy(
        lambda: Sandwich(nn.Conv3d(16, 8, 2, groups=4, padding=1, padding_mode="circular"), _as_volume), ("inner",)
    ),
    "attention": Toy(lambda: Sandwich(_mha(batch_first=True), _attend), ("inner",)),
    "attention, q and v": Toy(lambda: Sandwich(_mha(batch_first=True), _attend), ("inner[q,v]",)),
    "attention, output": Toy(lambda: Sandwich(_mha(batch_first=True), _attend), ("out_proj",)),
    "attention, batch second": Toy(lambda: Sandwich(_mha(), _attend_batch_second), ("inner",)),
    "attention, other widths": Toy(lambda: Sandwich(_mha(batch_first=True, kdim=16, vdim=16), _attend), ("inner",)),
    "llama": Toy(llama, ("q_proj", "v_proj", "lm_head"), tokens=True),
    "experts": Toy(mixtral, ("experts.gate_up_proj", "experts.down_proj"), tokens=True),
}


def give_effect(adapter: Adapter, std: float = 0.1) -> None:
    """Fill every stored floating-point tensor with noise, so that no test passes on an adapter that does nothing."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)


def quiet(model: nn.Module, x: Tensor) -> Tensor:
    """The model's output without a graph."""
    with torch.no_grad():
        return model(x)
