"""Attention for short sequences on a CPU, under the name "loralab" in transformers' attention interface.

    S = s·Q·Kᵀ + mask,   P = softmax(S),   O = dropout(P)·V

For a couple of hundred tokens in bfloat16, two plain matrix products and a softmax are several times faster than
torch's fused CPU kernel, whose backward pass is its slow half (in float32 it is the faster one); but autograd would
keep P. The function here keeps only Q, K and V (and the dropout mask, if any) and computes P again in its backward
pass. Grouped keys and values are used as they are: the query heads of one group are rows of one product. On other
devices, for long sequences and without gradients, torch's own kernel is called. It knows nothing of models beyond the
interface.

Shapes: B sequences, Q query heads, G key heads, R = Q/G query heads to a key head, T query tokens, S key tokens,
D head width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from loralab.nn.dropout import kept, scaled

NAME = "loralab"

LONGEST = {torch.bfloat16: 192, torch.float16: 192}
"""Key tokens up to which the plain products are used; never for other dtypes. Measured on one thread, forward and
backward, milliseconds here / torch's kernel: bfloat16 58 tokens 29/52, 128 45/60, 256 72/62, 512 97/65; float32
58 tokens 16/13, 256 41/22 (a processor without bfloat16 products; one with them gave 2.4/10.7 at 58 tokens)."""

_UNKNOWN = ("position_bias", "softcap", "s_aux", "cache")
"""Arguments of the interface that change the result and that only torch's kernel, or none, knows."""


def short_attention(
    query_BQTD: Tensor,
    key_BGSD: Tensor,
    value_BGSD: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """O [B, Q, T, D], as `F.scaled_dot_product_attention`; differentiable in query, key and value.

    `mask` broadcasts to [B, Q, T, S] (or to [B, 1, T, S]): boolean with True where attention is allowed, or added to
    the scores. `causal` lets query t see keys up to t, and is used when no mask is given. Rows without an
    allowed key give the mean of all values.
    """
    factor = query_BQTD.shape[-1] ** -0.5 if scale is None else scale
    if mask is None and causal:
        mask = _causal_mask(query_BQTD.shape[2], key_BGSD.shape[2], query_BQTD.device)
    if mask is not None and mask.dtype == torch.bool:
        mask = _additive(mask, query_BQTD.dtype)
    output: Tensor = _ShortAttention.apply(  # type: ignore[no-untyped-call]
        query_BQTD, key_BGSD, value_BGSD, mask, factor, dropout
    )
    return output


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [B, heads, T, D] tensors in, [B, T, heads, D] out, no attention weights."""
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if not _is_short(query, key, value, attention_mask) or any(others.get(name) is not None for name in _UNKNOWN):
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **others
        )
        return result
    output = short_attention(query, key, value, mask=attention_mask, causal=causal, scale=scaling, dropout=dropout)
    return output.transpose(1, 2), None


def register() -> None:
    """Make "loralab" known to transformers: the function, and boolean masks (or none, where causality says it all)."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def short_sequence_attention(model: nn.Module) -> Iterator[str]:
    """Within this, the model uses the attention above if it can; yields a sentence saying whether it does.

    A model that does not use torch's kernel by default (its own masks, sinks or biases) keeps what it has.
    """
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if not isinstance(model, PreTrainedModel) or before != "sdpa" or model.device.type != "cpu":
        yield f"attention: the model's own ({before or 'not selectable'})"
        return
    register()
    model.set_attn_implementation(NAME)
    try:
        yield _sentence(model.dtype)
    finally:
        model.set_attn_implementation(before)


class _ShortAttention(torch.autograd.Function):
    """Forward: P = softmax(s·QKᵀ + M), O = (P∘D)·V.   Backward, with P computed again and g = ∂/∂O:

    ∂V = (P∘D)ᵀ·g,   ∂P = (g·Vᵀ)∘D,   ∂S = P∘(∂P − Σ ∂P∘P),   ∂Q = s·∂S·K,   ∂K = s·∂Sᵀ·Q
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        weights = _weights(query, key, mask, scale)
        stays, factor = kept(weights.shape, dropout) if dropout else (None, 1.0)
        ctx.save_for_backward(query, key, value, mask, stays)
        ctx.scale, ctx.factor = scale, factor
        dropped = weights if stays is None else weights.mul_(scaled(stays, factor, weights.dtype))
        return _ungrouped(torch.bmm(dropped, value.flatten(0, 1)), query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, stays = ctx.saved_tensors
        weights = _weights(query, key, mask, ctx.scale)
        grad_grouped, value_flat = _grouped(grad, key.shape[1]), value.flatten(0, 1)
        grad_weights = torch.bmm(grad_grouped, value_flat.mT)
        drop = None if stays is None else scaled(stays, ctx.factor, weights.dtype)
        if drop is not None:
            grad_weights.mul_(drop)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        dropped = weights if drop is None else weights.mul_(drop)
        grad_value = torch.bmm(dropped.mT, grad_grouped).view(value.shape)
        grad_query = _ungrouped(torch.bmm(grad_scores, key.flatten(0, 1)), query.shape)
        grad_key = torch.bmm(grad_scores.mT, _grouped(query, key.shape[1])).view(key.shape)
        return grad_query, grad_key, grad_value, None, None, None


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """P with shape [B·G, R·T, S]."""
    batch, heads, tokens, _ = query.shape
    scores = torch.bmm(_grouped(query, key.shape[1]), key.flatten(0, 1).mT).mul_(scale)
    if mask is not None:
        scores.view(batch, heads, tokens, -1).add_(mask)
    return scores.softmax(-1)


def _sentence(dtype: torch.dtype) -> str:
    if dtype not in LONGEST:
        return f"attention: torch's kernel, the faster one in {str(dtype).removeprefix('torch.')}"
    return f"attention: plain products up to {LONGEST[dtype]} tokens, computed again in the backward pass"


def _grouped(x_BQTD: Tensor, groups: int) -> Tensor:
    """[B, Q, T, D] -> [B·G, R·T, D]: the query heads of one key head below one another."""
    batch, heads, tokens, width = x_BQTD.shape
    return x_BQTD.reshape(batch * groups, heads // groups * tokens, width)


def _ungrouped(x: Tensor, shape: torch.Size) -> Tensor:
    """[B·G, R·T, D'] -> [B, Q, T, D'] for a query of `shape`."""
    return x.view(shape[0], shape[1], shape[2], -1)


def _causal_mask(tokens: int, keys: int, device: torch.device) -> Tensor:
    return torch.ones(tokens, keys, dtype=torch.bool, device=device).tril_()


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)


def _is_short(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    trains = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    fits = key.shape[2] <= LONGEST.get(query.dtype, 0) and key.shape[2] == query.shape[2]
    return trains and fits and query.device.type == "cpu" and not (mask is not None and mask.requires_grad)
