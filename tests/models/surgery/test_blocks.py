"""Blocks dropped and replaced: logits, the KV cache, the config, and what is reopened from disk."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from loralab.errors import ModelLoadError, NotFoundError, SpecError
from loralab.models.linearized import load_linearized, write_linearized
from loralab.models.load import load_model
from loralab.models.locate import AFFINE_PLACES
from loralab.models.surgery.affine import REMAINING, TENSORS, AffineMap
from loralab.models.surgery.blocks import (
    AffineBlock,
    blocks_of,
    insert_blocks,
    keep_blocks,
    removed_run,
    replace_blocks,
)
from tiny import write_llama, write_t5

IDS = torch.arange(2, 18).view(2, 8)
WIDTH, LAYERS = 32, 4
COMMON = {"vocab_size": 64, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
GATED = {**COMMON, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64, **ENDS}
MIXED = ["sliding_attention", "full_attention"] * 2
CASES = {
    "Llama": GATED,
    "GPT2": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "vocab_size": 64, **ENDS},
    "OPT": {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": WIDTH, "max_position_embeddings": 64, **ENDS},
    "Bloom": {**COMMON, "n_layer": LAYERS, "n_head": 4, **ENDS},
    "GPTNeoX": {**COMMON, "intermediate_size": 48, "max_position_embeddings": 64, **ENDS},
    "Qwen2": {**GATED, "use_sliding_window": True, "sliding_window": 4, "layer_types": MIXED},
    "Qwen3Moe": {
        **GATED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "decoder_sparse_step": 2, "mlp_only_layers": [1],
    },
}  # fmt: skip


def build(kind: str, **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**CASES[kind] | changes)
    head = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    model: PreTrainedModel = getattr(transformers, f"{kind}{head}")(config)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@torch.no_grad()
def logits_in_two_parts(model: nn.Module) -> Tensor:
    """The same with the second part on the cache of the first."""
    first = model(input_ids=IDS[:, :5], use_cache=True)
    second = model(input_ids=IDS[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    return torch.cat([first.logits, second.logits], 1)


def generated(model: PreTrainedModel, *, cache: bool, beams: int = 1) -> list[list[int]]:
    settings = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams, "use_cache": cache}
    return model.generate(IDS, attention_mask=torch.ones_like(IDS), **settings).tolist()


def affine(seed: int = 0, outputs: int = 0) -> AffineBlock:
    generator = torch.Generator().manual_seed(seed)
    weight, bias = (torch.randn(*shape, generator=generator) for shape in ((WIDTH, WIDTH), (WIDTH,)))
    return AffineBlock(weight * 0.1, bias * 0.1, outputs)


class Passing(nn.Module):
    """A block that does nothing."""

    def __init__(self, outputs: int = 0) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> object:
        return (hidden_states, None) if self.outputs else hidden_states


@pytest.mark.parametrize("kind", CASES)
def test_without_a_block_is_the_model_in_which_it_does_nothing(kind: str) -> None:
    """GPT-2 to Qwen: by another way to the same logits, then generation by cache as without, then from disk."""
    expected, pruned = build(kind), build(kind)
    blocks = blocks_of(expected)
    blocks[2] = Passing(outputs=2 * (kind == "Bloom"))
    keep_blocks(pruned, [0, 1, 3])
    assert torch.equal(logits(pruned), logits(expected))
    assert pruned.config.num_hidden_layers == len(blocks_of(pruned)) == 3
    assert generated(pruned, cache=True) == generated(pruned, cache=False)


@pytest.mark.parametrize("kind", CASES)
def test_pruned_is_reopened_by_transformers(kind: str, tmp_path: Path) -> None:
    pruned = build(kind)
    keep_blocks(pruned, [0, 3])
    pruned.save_pretrained(tmp_path)
    reopened = type(pruned).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(reopened), logits(pruned))
    assert generated(reopened, cache=True) == generated(pruned, cache=True)


@pytest.mark.parametrize("kind", [kind for kind in CASES if kind != "Qwen2"])
@pytest.mark.parametrize("run", [(0, 1), (1, 3), (3, 4)])
def test_an_affine_block_and_the_cache(kind: str, run: tuple[int, int]) -> None:
    model = build(kind)
    outputs = 2 * (kind == "Bloom")
    before = logits(model)
    replace_blocks(model, {run: affine(outputs=outputs)})
    assert not torch.allclose(logits(model), before)
    torch.testing.assert_close(logits_in_two_parts(model), logits(model))
    assert generated(model, cache=True) == generated(model, cache=False)
    assert generated(model, cache=True, beams=2) == generated(model, cache=False, beams=2)


def test_mixed_attention_keeps_its_first_blocks() -> None:
    model = build("Qwen2")
    replace_blocks(model, {(2, 4): affine()})
    assert model.config.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    assert generated(model, cache=True) == generated(model, cache=False)
    with pytest.raises(SpecError, match=r"block 1 cannot be an affine map: this model mixes kinds of attention"):
        replace_blocks(build("Qwen2"), {(1, 2): affine()})


def test_an_affine_block_is_its_equation() -> None:
    block = affine()
    h = torch.randn(2, 3, WIDTH)
    torch.testing.assert_close(block(h, None, position_ids=1), h + h @ block.weight.T + block.bias)


def test_the_map_of_nothing_is_dropping() -> None:
    dropped, replaced = build("Llama"), build("Llama")
    keep_blocks(dropped, [0, 3])
    replace_blocks(replaced, {(1, 3): AffineBlock(torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH))})
    assert torch.equal(logits(dropped), logits(replaced))


def test_inserting_is_the_inverse_of_dropping() -> None:
    replaced, inserted = build("Llama"), build("Llama")
    replace_blocks(replaced, {(0, 1): affine(1), (2, 3): affine(2)})
    keep_blocks(inserted, [1, 3])
    insert_blocks(inserted, {0: affine(1), 2: affine(2)}, {})
    assert torch.equal(logits(replaced), logits(inserted))
    assert generated(replaced, cache=True) == generated(inserted, cache=True)


def test_dropping_nothing_changes_nothing() -> None:
    model = build("Llama")
    before, blocks = logits(model), blocks_of(model)
    keep_blocks(model, removed_run(LAYERS, 0, 0))
    assert blocks_of(model) is blocks
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kept", [[], [1, 0], [0, 0], [0, 4], [-1, 0]])
def test_blocks_that_cannot_be_kept(kept: list[int]) -> None:
    with pytest.raises(SpecError, match=r"give some of 0 to 3, in rising order"):
        keep_blocks(build("Llama"), kept)


def test_runs_that_overlap() -> None:
    with pytest.raises(SpecError, match="they overlap"):
        replace_blocks(build("Llama"), {(0, 2): affine(), (1, 3): affine()})


def test_blocks_that_depend_on_their_number() -> None:
    with pytest.raises(SpecError, match="divides by a block's number"):
        keep_blocks(build("GPT2", scale_attn_by_inverse_layer_idx=True), [0, 2])


def test_a_model_of_two_lists_of_blocks(tmp_path: Path) -> None:
    model = load_model(str(write_t5(tmp_path)), kind="seq2seq-lm").model
    with pytest.raises(SpecError, match=r"it has 2 lists of blocks \(encoder\.block, decoder\.block\)"):
        blocks_of(model)
    with pytest.raises(SpecError, match="its blocks are not known"):
        blocks_of(nn.Sequential(nn.Linear(2, 2)))


def test_a_linearized_folder_is_reopened(tmp_path: Path) -> None:
    folder = str(write_llama(tmp_path / "base", num_hidden_layers=LAYERS))
    live, source = (load_model(folder, dtype="float32") for _ in range(2))
    out = tmp_path / "linearized"
    out.mkdir()
    maps = {(0, 1): affine(1), (2, 4): affine(2)}
    write_linearized(source, {run: AffineMap(each.weight.data, each.bias.data) for run, each in maps.items()}, out)
    replace_blocks(live.model, maps)
    reopened = load_linearized(out, dtype="float32")
    assert torch.equal(logits(reopened.model), logits(live.model))
    assert generated(reopened.model, cache=True) == generated(live.model, cache=False)
    assert len(blocks_of(load_model(str(out / REMAINING)).model)) == 1
    assert torch.equal(logits(load_model(str(out), dtype="float32").model), logits(live.model))
    spoil(out)


def spoil(out: Path) -> None:
    (out / TENSORS).write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="do not fit together"):
        load_linearized(out)
    (out / AFFINE_PLACES).unlink()
    with pytest.raises(NotFoundError, match=r"it has no affine_blocks\.json"):
        load_linearized(out)
