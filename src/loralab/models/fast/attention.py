"""Attention for short sequences on a CPU, under the name "loralab" in transformers' attention interface.

    S = s·Q·Kᵀ + mask,   P = softmax(S),   O = dropout(P)·V

For a few hundred tokens in bfloat16, two plain matrix products and a softmax are several times faster than
torch's fused CPU kernel, whose backward pass is its slow half (in float32 it is the faster one); but autograd would
keep P. The function here keeps only Q, K and V, computes P again in its backward pass, and draws again what dropout
drew. torch's fused kernel has no dropout: where weights are dropped, torch keeps P three times over, and the function
here is used at any length and precision. Grouped keys and values are used as they are: the query heads of one group are
rows of one product. A few sequences are worked through at a time. On other devices and without gradients torch's own
kernel is called. It knows nothing of models beyond the interface.

Shapes: B sequences, Q query heads, G key heads, R = Q/G query heads to a key head, T query tokens, S key tokens,
D head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from loralab.models.precision import multiplies_bfloat16
from loralab.nn.dropout import drawn_again, kept, scaled

NAME = "loralab"

LONGEST = {torch.bfloat16: 192, torch.float16: 192}
"""Key tokens up to which the plain products are used without dropout; never for other dtypes. Measured on one thread,
forward and backward, milliseconds here / torch's kernel: bfloat16 58 tokens 29/52, 128 45/60, 256 72/62, 512 97/65;
float32 58 tokens 16/13, 256 41/22 (a processor without bfloat16 products; one with them gave 2.4/10.7 at 58 tokens).
With dropout, on two threads in float32, 12 heads of 32: 32×60 tokens 43/51, 32×128 131/184, 8×512 528/896; kept are
9/24, 20/90 and 26/306 MB."""

LONGEST_NATIVE = {torch.bfloat16: 512}
"""The same where the processor multiplies bfloat16 itself. Measured there on two threads, 9 heads of 64 with 3 of keys:
64 tokens 10/40, 256 27/53, 512 57/81, 1024 167/106; 12 heads of 32, masked, 256 24/47, 512 59/72."""

WEIGHTS_AT_ONCE = 2**21
"""Elements of P that are worked through together: as many sequences, and at least one. They stay in a cache: 2²³ took
1.3 to 1.7 times as long from 256 tokens on."""

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
        tokens, keys = query_BQTD.shape[2], key_BGSD.shape[2]
        mask = torch.ones(tokens, keys, dtype=torch.bool, device=query_BQTD.device).tril_()
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
    if not _is_for_products(query, key, value, attention_mask, dropout) or any(
        others.get(name) is not None for name in _UNKNOWN
    ):
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


def longest(dtype: torch.dtype) -> int:
    """Key tokens up to which this processor takes the plain products without dropout; 0: never."""
    native = LONGEST_NATIVE if multiplies_bfloat16() else {}
    return native.get(dtype, LONGEST.get(dtype, 0))


class _ShortAttention(torch.autograd.Function):
    """Forward: P = softmax(s·QKᵀ + M), O = (P∘D)·V.   Backward, with P computed again and g = ∂/∂O:

    ∂V = (P∘D)ᵀ·g,   ∂P = (g·Vᵀ)∘D,   ∂S = P∘(∂P − Σ ∂P∘P),   ∂Q = s·∂S·K,   ∂K = s·∂Sᵀ·Q
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        drawing = torch.get_rng_state() if dropout else None
        ctx.save_for_backward(query, key, value, mask, drawing)
        ctx.scale, ctx.dropout = scale, dropout
        output = query.new_empty(*query.shape[:3], value.shape[3])
        for rows in _sequences(query, key):
            q, k, v, m = _rows(rows, query, key, value, mask)
            weights = _weights(q, k, m, scale)
            if dropout:
                weights.mul_(_drop(weights, dropout))
            torch.bmm(weights, v.flatten(0, 1), out=_grouped(output[rows], key.shape[1]))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, drawing = ctx.saved_tensors
        gradients = [torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in (query, key, value)]
        with nullcontext() if drawing is None else drawn_again(drawing):
            for rows in _sequences(query, key):
                parts = _rows(rows, query, key, value, mask)
                _gradients(*parts, grad[rows], ctx.scale, ctx.dropout, [each[rows] for each in gradients])
        return *gradients, None, None, None


def _gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    grad: Tensor,
    scale: float,
    dropout: float,
    gradients: Sequence[Tensor],
) -> None:
    """Writes ∂Q, ∂K and ∂V of a few sequences into `gradients`."""
    groups, (grad_query, grad_key, grad_value) = key.shape[1], gradients
    weights = _weights(query, key, mask, scale)
    grad_grouped = _grouped(grad, groups)
    grad_weights = torch.bmm(grad_grouped, value.flatten(0, 1).mT)
    drop = _drop(weights, dropout) if dropout else None
    if drop is not None:
        grad_weights.mul_(drop)
    grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(scale)
    dropped = weights if drop is None else weights.mul_(drop)
    torch.bmm(dropped.mT, grad_grouped, out=grad_value.flatten(0, 1))
    torch.bmm(grad_scores, key.flatten(0, 1), out=_grouped(grad_query, groups))
    torch.bmm(grad_scores.mT, _grouped(query, groups), out=grad_key.flatten(0, 1))


def _sequences(query: Tensor, key: Tensor) -> Iterator[slice]:
    """The batch in parts whose P are as large as is worked through together."""
    batch, heads, tokens, _ = query.shape
    count = max(1, WEIGHTS_AT_ONCE // max(1, heads * tokens * key.shape[2]))
    return (slice(start, start + count) for start in range(0, batch, count))


def _rows(
    rows: slice, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """These sequences; a mask may be one for all."""
    alone = mask is None or mask.ndim < 4 or mask.shape[0] == 1
    return query[rows], key[rows], value[rows], mask if alone or mask is None else mask[rows]


def _drop(weights: Tensor, dropout: float) -> Tensor:
    """What dropout multiplies P by, drawn anew."""
    stays, factor = kept(weights.shape, dropout)
    return scaled(stays, factor, weights.dtype)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """P with shape [B·G, R·T, S]."""
    batch, heads, tokens, _ = query.shape
    rows, columns = _grouped(query, key.shape[1]), key.flatten(0, 1).mT
    if mask is not None and mask.numel() == mask.shape[-2:].numel() == tokens * key.shape[2]:  # one for all
        repeated = mask.reshape(tokens, -1).repeat(heads // key.shape[1], 1)
        return _softmax(torch.baddbmm(repeated, rows, columns, alpha=scale))
    scores = torch.bmm(rows, columns).mul_(scale)
    if mask is not None:
        scores.view(batch, heads, tokens, -1).add_(mask)
    return _softmax(scores)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last dimension. torch's kernel for 16 bits takes three times as long an element where that is no
    multiple of 32, longer than by way of float32."""
    if scores.element_size() == 2 and scores.shape[-1] % 32:
        return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    return scores.softmax(-1)


def _sentence(dtype: torch.dtype) -> str:
    if not longest(dtype):
        return (
            f"attention: torch's kernel, the faster one in {str(dtype).removeprefix('torch.')}; where weights are "
            "dropped, plain products, computed again in the backward pass"
        )
    return (
        f"attention: plain products up to {longest(dtype)} tokens (at any length where weights are dropped), computed "
        "again in the backward pass"
    )


def _grouped(x_BQTD: Tensor, groups: int) -> Tensor:
    """[B, Q, T, D] -> [B·G, R·T, D]: the query heads of one key head below one another."""
    batch, heads, tokens, width = x_BQTD.shape
    return x_BQTD.reshape(batch * groups, heads // groups * tokens, width)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)


def _is_for_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> bool:
    trains = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    short = key.shape[2] <= longest(query.dtype)
    fits = (short or dropout > 0) and key.shape[2] == query.shape[2]
    return trains and fits and query.device.type == "cpu" and not (mask is not None and mask.requires_grad)
