"""The residual stream between blocks: which states, before the final norm, without padding; and the text that makes
them.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from loralab.analysis.layers.stream import chosen_states, run_levels
from loralab.analysis.layers.texts import (
    TokenBatch,
    encode,
    joined,
    perplexity,
    read_texts,
    sample_pieces,
    token_batches,
)
from loralab.errors import DataError, NotFoundError, NumericsError, SpecError
from loralab.models.surgery.blocks import blocks_of
from small_models import build
from tiny import byte_tokenizer

IDS = torch.arange(3, 23).view(2, 10)
MASK = torch.ones(2, 10, dtype=torch.bool)
MASK[1, 7:] = False
BATCH = TokenBatch(IDS, MASK)


def states_of(model: nn.Module, levels: range | None = None) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    run_levels(model, [BATCH], lambda level, states, _: found.update({level: states}), levels)
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_levels_are_the_hidden_states_but_the_last_is_before_the_norm(name: str) -> None:
    model = build(name)
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=MASK.long(), output_hidden_states=True).hidden_states
    found = states_of(model)
    assert list(found) == [0, 1, 2, 3]
    for level in range(3):
        torch.testing.assert_close(found[level], expected[level])
    norm = model.model.norm if name == "llama" else model.transformer.ln_f
    torch.testing.assert_close(norm(found[3]), expected[3])
    assert not torch.allclose(found[3], expected[3], atol=0.1)


def test_of_an_encoder_too() -> None:
    model = build("bert")
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=MASK.long(), output_hidden_states=True).hidden_states
    found = states_of(model)
    for level, states in enumerate(expected):
        torch.testing.assert_close(found[level][MASK], states[MASK])


def test_the_pass_ends_at_the_highest_level() -> None:
    model = build("llama")
    called: list[int] = []
    for number, block in enumerate(blocks_of(model)):
        block.register_forward_hook(lambda *_, number=number: called.append(number))
    assert list(states_of(model, range(2))) == [0, 1]
    assert called == [0]
    assert not any(block._forward_pre_hooks for block in blocks_of(model))


def test_the_mode_comes_back_and_dropout_is_off() -> None:
    model = build("gpt2").train()
    first, second = states_of(model), states_of(model)
    assert torch.equal(first[3], second[3])
    assert model.training


def test_last_mean_and_all_leave_padding_out() -> None:
    states = torch.arange(40.0).view(2, 10, 2)
    assert chosen_states(states, MASK, "last").tolist() == [states[0, 9].tolist(), states[1, 6].tolist()]
    torch.testing.assert_close(chosen_states(states, MASK, "mean")[1], states[1, :7].mean(0))
    assert chosen_states(states, MASK, "all").shape == (17, 2)


def test_padding_changes_no_state() -> None:
    model = build("llama")
    whole: list[Tensor] = []
    alone = TokenBatch(IDS[1:, :7], MASK[1:, :7])
    for batch in (BATCH, alone):
        run_levels(model, [batch], lambda _, states, mask: whole.append(chosen_states(states, mask, "last")))
    torch.testing.assert_close(whole[3][1], whole[7][0])


def test_states_that_are_not_finite() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="at level 2 are not finite"):
        states_of(model)


def test_batches_hold_every_row_once_and_few_tokens() -> None:
    rows = [[number] * length for number, length in enumerate([5, 900, 3, 1500, 40, 4000, 1], start=1)]
    batches = list(token_batches(rows, 0))
    assert sorted(
        row[mask].tolist() for each in batches for row, mask in zip(each.ids_BT, each.mask_BT, strict=True)
    ) == sorted(rows)
    assert all(each.ids_BT.numel() <= 2048 or len(each.ids_BT) == 1 for each in batches)


def test_a_plain_file_is_cut_in_two(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("a" * 80 + "b" * 20)
    texts = read_texts(str(path))
    assert (texts.fit, texts.held_out) == (("a" * 80,), ("b" * 20,))
    assert sample_pieces(texts.fit, 30, 9) == ["a" * 30, "a" * 30, "a" * 20]


def test_json_lines_are_parted_by_document(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": str(number)}) + "\n" for number in range(10)))
    texts = read_texts(str(path))
    assert texts.held_out == ("8", "9")
    assert joined(texts.held_out) == ["8\n\n\n9"]
    path.write_text('{"txt": "a"}\n')
    with pytest.raises(DataError, match="line 1: there is no text; the keys are txt"):
        read_texts(str(path))


def test_the_embedded_parts_share_nothing() -> None:
    texts = read_texts(None)
    assert not set(texts.fit) & set(texts.held_out)
    assert len(texts.held_out) > 50


def test_pieces_are_the_same_for_one_seed() -> None:
    text = [" ".join(map(str, range(5000)))]
    assert (
        sample_pieces(text, 100, 5, seed=1)
        == sample_pieces(text, 100, 5, seed=1)
        != sample_pieces(text, 100, 5, seed=2)
    )
    with pytest.raises(SpecError, match="0 pieces"):
        sample_pieces(text, 100, 0)


def test_files_that_hold_no_text(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="holds no text"):
        read_texts(str(tmp_path / "blank.txt"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_texts(str(tmp_path / "latin.txt"))
    with pytest.raises(NotFoundError, match="does not exist"):
        read_texts(str(tmp_path / "none.txt"))


def test_perplexity_is_e_to_the_mean_loss() -> None:
    model, rows = build("llama"), [[3, 4, 5, 6], [7, 8, 9]]
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(
                model(input_ids=torch.tensor([row])).logits[0, :-1], torch.tensor(row[1:]), reduction="sum"
            )
            for row in rows
        ]
    assert perplexity(model, byte_tokenizer(), rows) == pytest.approx(float((sum(losses) / 5).exp()), rel=1e-4)
    with pytest.raises(DataError, match="no second token"):
        perplexity(model, byte_tokenizer(), [[3]])
    assert [len(row) for row in encode(["abcdef"], byte_tokenizer(), 4)] == [4]
