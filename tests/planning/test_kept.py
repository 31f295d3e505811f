"""The tables of what is kept for the backward pass, against autograd's own list of saved tensors."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.core.attach import attach
from loralab.methods.registry import specification
from loralab.methods.settings import MethodSettings
from loralab.models.fast.attention import short_sequence_attention
from loralab.models.fast.lean import lean_leaves
from loralab.models.load import config_of_type, model_from_config
from loralab.planning.activations import block_table
from loralab.planning.blueprint import kind_of
from loralab.planning.kept import kept_by
from loralab.planning.shape import Workload, shape_of

BATCH, TOKENS = 8, 48
SIZES: dict[str, object] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "vocab_size": 50,
}
DEBERTA: dict[str, object] = {
    "relative_attention": True,
    "position_buckets": 16,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
}
CONFIGS: dict[str, dict[str, object]] = {
    "llama": SIZES | {"num_key_value_heads": 2},
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_inner": 80, "vocab_size": 50},
    "bert": SIZES,
    "roberta": SIZES,
    "deberta-v2": SIZES | DEBERTA | {"type_vocab_size": 0},
}
METHODS = ("lora", "full", "adapter-h", "adapter-l", "adapter-p", "bitfit")
CASES = [
    (kind, method, dtype)
    for kind in CONFIGS
    for method in METHODS
    for dtype in (torch.float32, torch.bfloat16)
    if (kind, method) != ("llama", "bitfit")
]


def build(kind: str, layers: int, dtype: torch.dtype, method: str) -> tuple[PreTrainedModel, Adapter]:
    name = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    config = config_of_type(kind, CONFIGS[kind] | {name: layers})
    model = model_from_config(kind, config, kind_of(config, None)).to(dtype)  # type: ignore[arg-type]
    adapter = attach(model, specification(MethodSettings(method=method, rank=2, size=4)))
    return model.train(), adapter


def saved_bytes(model: PreTrainedModel) -> int:
    """Of the tensors that autograd keeps in a forward pass of the body; weights and copies of them are left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(shape) for p in model.parameters() for shape in (p.shape, p.shape[::-1])}
    kept: dict[int, Tensor] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in weights and tuple(tensor.shape) not in shapes:
            kept.setdefault(storage, tensor)
        return tensor

    ids = torch.randint(3, 50, (BATCH, TOKENS))
    cache = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    hooks = torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor)
    lean = lean_leaves(model, recompute_gates=model.dtype == torch.float32)
    with short_sequence_attention(model), lean, hooks:
        _ = model.base_model(input_ids=ids, **cache)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def tabled_bytes(model: PreTrainedModel, adapter: Adapter) -> int:
    """Of all blocks, and what the method adds."""
    shape, again = shape_of(model, Workload(BATCH, TOKENS, BATCH, model.dtype)), model.dtype == torch.float32
    method = kept_by(adapter, model, shape, again)
    return shape.layers * sum(block_table(model, shape, again).values()) + method.inputs + method.products


@pytest.mark.parametrize("kind, method, dtype", CASES)
def test_one_more_block_keeps_what_the_table_says(kind: str, method: str, dtype: torch.dtype) -> None:
    two, three = (build(kind, layers, dtype, method) for layers in (2, 3))
    measured = saved_bytes(three[0]) - saved_bytes(two[0])
    assert tabled_bytes(*three) - tabled_bytes(*two) == pytest.approx(measured, rel=0.06)
