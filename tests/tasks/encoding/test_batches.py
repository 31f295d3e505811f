import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from loralab.errors import SpecError
from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.batches import POOL_BATCHES, collate, epoch_batches, length_pool, sorted_batches
from loralab.tasks.encoding.encoded import Encoded, EncodedPair, EncodedRow

LENGTHS = st.lists(st.integers(1, 300), max_size=200)


@given(LENGTHS, st.integers(1, 7), st.integers(0, 9), st.integers(0, 9), st.sampled_from([1, 2, 50]))
def test_an_epoch_has_every_index_once_and_is_the_same_again(
    lengths: list[int], size: int, seed: int, epoch: int, pool: int
) -> None:
    batches = epoch_batches(lengths, size, seed, epoch, pool)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert sum(len(batch) < size for batch in batches) <= 1
    assert all(0 < len(batch) <= size for batch in batches)
    assert batches == epoch_batches(lengths, size, seed, epoch, pool)


def test_epochs_and_seeds_differ() -> None:
    lengths = list(range(100))
    one = epoch_batches(lengths, 4, 0, 0, 50)
    assert one != epoch_batches(lengths, 4, 0, 1, 50)
    assert one != epoch_batches(lengths, 4, 1, 0, 50)
    assert epoch_batches(lengths, 4, 1, 11, 50) != epoch_batches(lengths, 4, 11, 1, 50)


def test_batches_are_of_near_equal_length_and_not_in_order_of_it() -> None:
    lengths = torch.randint(1, 300, (3200,)).tolist()
    batches = epoch_batches(lengths, 16, 0, 0, 50)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest != sorted(longest)


def test_batches_of_no_pool_are_drawn_whatever_the_lengths() -> None:
    lengths = torch.randint(1, 300, (320,)).tolist()
    drawn = [[set(batch) for batch in epoch_batches(each, 16, 0, 0, 1)] for each in (lengths, [7] * 320)]
    assert drawn[0] == drawn[1]


def test_examples_with_one_label_are_not_sorted_by_length() -> None:
    """A class, a value, a preference; unlike tokens, packed or not."""
    tokens, classed, valued = (Encoded([5, 6], labels) for labels in ([IGNORED, 6], 1, 0.5))
    kinds = [[tokens], [EncodedRow((tokens,), (0,))], [classed], [valued], [EncodedPair(tokens, tokens)], []]
    assert [length_pool(each) for each in kinds] == [POOL_BATCHES, POOL_BATCHES, 1, 1, 1, POOL_BATCHES]


@given(LENGTHS, st.integers(1, 7))
def test_sorted_batches_begin_with_the_longest(lengths: list[int], size: int) -> None:
    order = [index for batch in sorted_batches(lengths, size) for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)


def test_collate_pads_on_the_right() -> None:
    batch = collate([Encoded([5, 6, 7], [-100, 6, 7]), Encoded([8, 9], [-100, 9])], pad_id=3)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 3]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [[-100, 6, 7], [-100, 9, -100]]
    assert (batch.tokens, batch.targets) == (5, 3)


def test_widths_of_a_run_are_few_and_none_is_beyond_its_longest_text() -> None:
    rows = [Encoded([1] * length, [IGNORED] * length) for length in (3, 5, 9)]
    widths = [collate(rows[:count], 0, longest=9).input_ids.shape[1] for count in (1, 2, 3)]
    assert widths == [4, 8, 9]
    batch = collate(rows[:1], 0, longest=9)
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0]]
    assert batch.labels is not None
    assert (batch.labels.tolist(), batch.tokens) == ([[IGNORED] * 4], 3)


def test_no_mask_where_none_is_needed() -> None:
    short, long = Encoded([5, 6], [-100, 6]), Encoded([5, 6, 7], [-100, 6, 7])
    assert collate([short, short], 0).attention_mask is None
    assert collate([short, long], 0).attention_mask is not None
    assert collate([short, long], 0, causal=True).attention_mask is None


def test_a_causal_model_needs_no_mask() -> None:
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    encoded = [Encoded([5, 6, 7, 8], [-100] * 4), Encoded([8, 9], [-100] * 2)]
    masked, bare = collate(encoded, 0), collate(encoded, 0, causal=True)
    with torch.no_grad():
        expected = model(input_ids=masked.input_ids, attention_mask=masked.attention_mask).logits
        found = model(input_ids=bare.input_ids).logits
    torch.testing.assert_close(found[1, :2], expected[1, :2])


def test_labels_of_classes_values_and_none() -> None:
    classes = collate([Encoded([1], 2), Encoded([1], 0)], 0).labels
    values = collate([Encoded([1], 0.5), Encoded([1], 2.0)], 0).labels
    assert classes is not None
    assert values is not None
    assert (classes.dtype, values.dtype) == (torch.int64, torch.float32)
    assert collate([Encoded([1], None), Encoded([1], 0)], 0).labels is None


def test_token_types_and_moving() -> None:
    batch = collate([Encoded([1, 2], 0, [0, 1]), Encoded([1], 1, [0])], 0)
    moved = batch.to("meta")
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1], [0, 0]]
    assert set(batch.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert {tensor.device.type for tensor in (*moved.inputs.values(), moved.labels)} == {"meta"}


def test_a_batch_size_below_one() -> None:
    for function in (lambda: epoch_batches([1], 0, 0, 0, 50), lambda: sorted_batches([1], 0)):
        with pytest.raises(SpecError, match="batch size 0"):
            function()
