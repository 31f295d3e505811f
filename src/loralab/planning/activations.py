"""What a training step holds at its largest moment beside weights and optimizer: the end of the forward pass.

Blocks by tables of what each operation keeps, held against autograd's own list of saved tensors in the tests; the
method's part, inputs of trained or adapted layers (`kept.py`); the output head in chunks
(models/fast/cross_entropy.py); and the copies of trained tensors in the model's precision (of projected weights one at
a time, as is a full gradient).
"""

import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.methods.counts import Counts
from loralab.methods.prefix.update import inserted_positions
from loralab.models.fast.attention import WEIGHTS_AT_ONCE
from loralab.models.fast.cross_entropy import BLOCK_BYTES, CHUNK_BYTES
from loralab.planning.kept import kept_by, projections
from loralab.planning.shape import FLOAT32, ModelSizes, Workload, shape_of


def activation_parts(model: PreTrainedModel, adapter: Adapter, counts: Counts, work: Workload) -> dict[str, int]:
    """Bytes by what they are for: `blocks`, `method`, `head`, `copies`, `workspace`."""
    shape = shape_of(model, replace(work, tokens=work.tokens + inserted_positions(adapter.updates)))
    recompute_gates = work.device == "cpu" and shape.size == FLOAT32
    method = kept_by(adapter, model, shape, recompute_gates)
    live = 0 if method.first_block is None else shape.layers - method.first_block
    block = sum(block_table(model, shape, recompute_gates).values())
    of_method = method.inputs + method.products
    one = block + of_method // max(1, live)
    checkpointed = work.gradient_checkpointing
    projected = projections(adapter, model)
    copied = counts.trained - projected.whole + projected.largest
    return {
        "blocks": shape.layers * shape.hidden if checkpointed else live * block,
        "method": 0 if checkpointed else of_method,
        "head": _head(model, adapter, shape, work),
        "copies": copied * shape.size if shape.size < FLOAT32 else 0,
        "workspace": _workspace(shape) + (one if checkpointed and live else 0) + projected.largest * FLOAT32,
    }


def block_table(model: PreTrainedModel, shape: ModelSizes, recompute_gates: bool) -> dict[str, int]:
    """What one frozen block keeps, by operation. A kind that is in no table counts as a gated or a plain one."""
    known = BLOCKS.get(model.config.get_text_config().model_type)
    if known is not None:
        return known(shape)
    is_gated = any(name.endswith("gate_proj") for name, _ in model.named_modules())
    return llama_block(shape, recompute_gates) if is_gated else plain_block(shape)


def is_in_a_table(model: PreTrainedModel) -> bool:
    """Whether its kind of block was held against autograd."""
    return model.config.get_text_config().model_type in {*BLOCKS, "llama", "mistral", "qwen2", "smollm3"}


def _head(model: PreTrainedModel, adapter: Adapter, shape: ModelSizes, work: Workload) -> int:
    """A chunk of logits and the hidden states at the targets with their gradients; where the head trains also a
    second chunk and its gradient, twice. BART adds its constant, as wide as the vocabulary, to what stands for its
    logits. Classes are few.
    """
    added = work.targets * shape.vocabulary * shape.size if hasattr(model, "final_logits_bias") else 0
    output = _output_head(model)
    if output is None:
        return 0
    hidden = 2 * work.targets * shape.width * shape.size
    chunk = _chunk_rows(work.targets, shape.vocabulary) * shape.vocabulary * shape.size
    if not any(layer is output for layer in adapter.layers.values()):
        return hidden + max(added, chunk + BLOCK_BYTES)
    return hidden + max(added, 2 * chunk) + 2 * shape.vocabulary * shape.width * FLOAT32


def _output_head(model: PreTrainedModel) -> nn.Module | None:
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def _chunk_rows(targets: int, vocabulary: int) -> int:
    """As models/fast/cross_entropy.py cuts them: equal chunks of at most `CHUNK_BYTES` of float32 logits."""
    most = max(16, CHUNK_BYTES // (FLOAT32 * max(1, vocabulary)))
    return math.ceil(targets / max(1, math.ceil(targets / most)))


def _workspace(shape: ModelSizes) -> int:
    """The widest moment of one block's backward pass: gradients in the feed-forward, or P and its gradients."""
    feed_forward = 2 * shape.positions * shape.inner * shape.size
    together = min(shape.scores, max(WEIGHTS_AT_ONCE, shape.scores // shape.batch))
    scores = 3 * together * shape.size if shape.attention != "fused" else 0
    return max(feed_forward, scores)


# -- what one frozen block keeps -------------------------------------------------------------------------------------

# In bytes; [B, T, H] is `shape.hidden`. Linear layers that are frozen keep nothing.

Table = dict[str, int]
INDEX = 8


def attention_kept(s: ModelSizes) -> int:
    """Queries, keys and values; torch's kernel also its output and the sums. The plain products compute P again, and
    draw again what fell out of it."""
    query, pair = s.positions * s.heads * s.head_width * s.size, 2 * s.positions * s.groups * s.head_width * s.size
    if s.attention == "products":
        return query + pair
    return 2 * query + pair + s.positions * s.heads * FLOAT32


def llama_block(s: ModelSizes, recompute_gates: bool) -> Table:
    """RMSNorm and SwiGLU as in models/fast: a norm keeps its input and ρ; a gate g and u, or only its input."""
    return {
        "norms": 2 * (s.hidden + s.positions * FLOAT32),
        "attention": attention_kept(s),
        "gate": s.hidden if recompute_gates else 2 * s.positions * s.inner * s.size,
    }


def plain_block(s: ModelSizes) -> Table:
    """LayerNorms, before the sublayers or behind them; gelu or gelu_new as one operation (models/fast/activation.py);
    dropouts, whose masks are in the model's precision."""
    return {
        "norms": 2 * s.hidden + 4 * s.positions * s.size,
        "attention": attention_kept(s),
        "gelu": s.positions * s.inner * s.size,
        "dropouts": 2 * s.hidden if s.hidden_dropout else 0,
    }


def deberta_block(s: ModelSizes) -> Table:
    """As the plain one, but attention in elementary steps: q, k, v and a scaled copy, P thrice, and the mask; with
    relative positions both products with their tables, the tables themselves for each head, and the indices."""
    products = 2 * s.batch * s.heads * s.relative * (s.tokens + s.head_width) * s.size
    return plain_block(s) | {
        "attention": 4 * s.hidden + 3 * s.scores * s.size + s.batch * s.tokens**2,
        "positions": products + 2 * s.tokens**2 * INDEX if s.relative else 0,
    }


BLOCKS: dict[str, Callable[[ModelSizes], Table]] = {
    "gpt2": plain_block,
    "bert": plain_block,
    "roberta": plain_block,
    "xlm-roberta": plain_block,
    "electra": plain_block,
    "camembert": plain_block,
    "deberta-v2": deberta_block,
}
"""Model type → its block, besides the gated ones."""
