"""What one frozen block keeps for the backward pass, operation by operation: a table for each kind of block.

Held against autograd's own list of saved tensors in the tests. What the method adds (inputs of trained or adapted
layers) is in `kept.py`. In bytes; [B, T, H] is `shape.hidden`. Linear layers that are frozen keep nothing.
"""

from collections.abc import Callable

from loralab.planning.shape import FLOAT32, ModelSizes

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


def gpt2_block(s: ModelSizes) -> Table:
    """LayerNorms; gelu_new as one operation (models/fast/activation.py); dropouts."""
    return {
        "norms": 2 * s.hidden + 4 * s.positions * s.size,
        "attention": attention_kept(s),
        "gelu": s.positions * s.inner * s.size,
        "dropouts": 2 * s.hidden if s.hidden_dropout else 0,
    }


def bert_block(s: ModelSizes) -> Table:
    """LayerNorms behind the sublayers, gelu in one operation, dropouts, whose masks are in the model's precision."""
    return {
        "norms": 2 * s.hidden + 4 * s.positions * s.size,
        "attention": attention_kept(s),
        "gelu": s.positions * s.inner * s.size,
        "dropouts": 2 * s.hidden if s.hidden_dropout else 0,
    }


def deberta_block(s: ModelSizes) -> Table:
    """As BERT's, but attention in elementary steps: q, k, v and a scaled copy, P thrice, and the mask; with relative
    positions both products with their tables, the tables themselves for each head, and the indices."""
    products = 2 * s.batch * s.heads * s.relative * (s.tokens + s.head_width) * s.size
    return bert_block(s) | {
        "attention": 4 * s.hidden + 3 * s.scores * s.size + s.batch * s.tokens**2,
        "positions": products + 2 * s.tokens**2 * INDEX if s.relative else 0,
    }


BLOCKS: dict[str, Callable[[ModelSizes], Table]] = {
    "gpt2": gpt2_block,
    "bert": bert_block,
    "roberta": bert_block,
    "xlm-roberta": bert_block,
    "electra": bert_block,
    "camembert": bert_block,
    "deberta-v2": deberta_block,
}
"""Model type → its block, besides the gated ones."""
