"""Trained positions hold what they say they hold: a prefix that starts as real tokens is the base with those tokens."""

import pytest
import torch
from torch import Tensor
from transformers import AlbertConfig, AlbertForSequenceClassification, OPTConfig, OPTForCausalLM

import loralab as ll
from loralab.core.prompt import ends_before_targets, prompts_end_at
from loralab.evaluation.likelihood import batch_target_loss
from loralab.methods.prefix.update import Places, PrefixUpdate, inserted_positions
from loralab.models.checkpointing import compute_blocks_again
from loralab.tasks.encoding.batches import Batch
from small_models import NO_ENDS, SPECS, build, gpt2, llama, logits

CAUSAL = ["llama", "gpt2"]


def tokens_of(model: torch.nn.Module, adapter: ll.Adapter) -> Tensor:
    """The ids whose embeddings the trained positions started from."""
    update = next(each for each in adapter.updates.values() if isinstance(each, PrefixUpdate))
    table = model.get_input_embeddings().weight
    return torch.stack([(table == row).all(1).nonzero()[0, 0] for row in update.added.get_parameter("embeddings")])


def test_places_by_hand() -> None:
    places = Places.of(torch.tensor([2, 3]), tokens=4, prefix=2, infix=1, first=0, reads_ahead=True)
    assert places.token_BT.tolist() == [[2, 3, 5, 6], [2, 3, 4, 6]]
    assert places.trained_BS.tolist() == [[0, 1, 4], [0, 1, 5]]
    assert places.read_BT.tolist() == [[2, 4, 5, 6], [2, 3, 5, 6]]


def test_an_encoder_keeps_its_first_token_in_front() -> None:
    places = Places.of(torch.tensor([3]), tokens=4, prefix=2, infix=1, first=1, reads_ahead=False)
    assert places.token_BT.tolist() == [[0, 3, 4, 6]]
    assert places.trained_BS.tolist() == [[1, 2, 5]]
    assert places.read_BT.tolist() == [[0, 3, 4, 6]]


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("spec", [ll.PrefixEmbedding(3, 0), ll.PrefixLayer(3, 0)])
def test_a_fresh_prefix_is_real_tokens_before_the_text(name: str, spec: object) -> None:
    model = build(name)
    ids = torch.randint(2, 64, (2, 6))
    adapter = ll.attach(model, spec)
    found = model(input_ids=ids).logits
    before = tokens_of(model, adapter).expand(2, -1)
    with ll.disabled(model):
        expected = model(input_ids=torch.cat([before, ids], 1)).logits[:, 3:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def opt(embedding: int) -> OPTForCausalLM:
    sizes = {"hidden_size": 32, "word_embed_proj_dim": embedding, "ffn_dim": 48, "num_hidden_layers": 2}
    return OPTForCausalLM(OPTConfig(**sizes, num_attention_heads=4, vocab_size=64, **NO_ENDS)).eval()


@pytest.mark.parametrize("embedding", [32, 16])
@pytest.mark.parametrize("spec", [ll.PrefixEmbedding(3, 0), ll.PrefixLayer(3, 0)])
def test_a_model_that_calls_its_decoder_past_the_base_model_sees_the_prefix(spec: object, embedding: int) -> None:
    """Its blocks may be wider than its embeddings."""
    torch.manual_seed(0)
    model = opt(embedding)
    adapter, ids = ll.attach(model, spec), torch.randint(2, 64, (2, 6))
    through_head, body = model(input_ids=ids).logits, model.model(input_ids=ids)[0]
    torch.testing.assert_close(model.lm_head(body), through_head)
    before = tokens_of(model, adapter).expand(2, -1)
    with ll.disabled(model):
        expected = model(input_ids=torch.cat([before, ids], 1)).logits[:, 3:]
    torch.testing.assert_close(through_head, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_infix_stands_between_prompt_and_target(name: str) -> None:
    model = build(name)
    ids = torch.randint(2, 64, (2, 6))
    ends = torch.tensor([2, 4])
    adapter = ll.attach(model, ll.PrefixEmbedding(1, 2))
    with prompts_end_at(ends):
        found = model(input_ids=ids).logits
    first, *after = tokens_of(model, adapter).tolist()
    for row, end in enumerate(ends.tolist()):
        whole = [first, *ids[row, :end].tolist(), *after, *ids[row, end:].tolist()]
        with ll.disabled(model):
            base = model(input_ids=torch.tensor([whole])).logits[0]
        read = [*range(1, end), end + 2, *range(end + 3, len(whole))]
        torch.testing.assert_close(found[row], base[read], rtol=1e-4, atol=1e-5)


def test_an_encoder_reads_the_prefix_after_its_first_token() -> None:
    model = build("bert")
    ids, kinds = torch.randint(2, 64, (1, 6)), torch.tensor([[0, 0, 0, 1, 1, 1]])
    adapter = ll.attach(model, ll.PrefixEmbedding(2, 1))
    found = model(input_ids=ids, token_type_ids=kinds).logits
    one, two, three = (each.view(1, 1) for each in tokens_of(model, adapter))
    whole = torch.cat([ids[:, :1], one, two, ids[:, 1:], three], 1)
    with ll.disabled(model):
        expected = model(input_ids=whole, token_type_ids=torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1]])).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_padding_on_the_right_does_not_reach_an_encoder() -> None:
    model = build("roberta")
    ll.attach(model, ll.PrefixLayer(2, 2))
    ids = torch.arange(3, 11)[None]
    padded = torch.cat([ids, torch.ones(1, 3, dtype=torch.long)], 1)
    mask = torch.tensor([[1] * 8 + [0] * 3])
    alone, together = model(input_ids=ids).logits, model(input_ids=padded, attention_mask=mask).logits
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_the_cache_is_the_base_on_real_tokens(name: str, beams: int) -> None:
    model = build(name)
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    how = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    adapter = ll.attach(model, ll.PrefixEmbedding(2, 2))
    found = model.generate(input_ids=ids, attention_mask=mask, **how)[:, 4:]
    specials = tokens_of(model, adapter)
    whole = torch.cat([specials[:2].expand(2, -1), ids, specials[2:].expand(2, -1)], 1)
    whole_mask = torch.cat([torch.ones(2, 2), mask, torch.ones(2, 2)], 1).long()
    with ll.disabled(model):
        expected = model.generate(input_ids=whole, attention_mask=whole_mask, **how)[:, 8:]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("spec", [ll.PrefixEmbedding(2, 2), ll.PrefixLayer(2, 2)])
def test_generation_with_the_cache_is_generation_without(name: str, spec: object) -> None:
    model = build(name)
    ll.attach(model, spec)
    ids, new = torch.tensor([[5, 6, 7]]), []
    with torch.no_grad():
        for _ in range(5):
            whole = torch.tensor([[*ids[0].tolist(), *new]])
            with prompts_end_at(torch.tensor([3])):
                new.append(int(model(input_ids=whole, use_cache=False).logits[0, -1].argmax()))
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    assert found[0, 3:].tolist() == new


def test_after_the_last_block_nothing_is_replaced() -> None:
    """The first new token depends on the prompt although it is predicted at a trained position."""
    model = build("gpt2")
    ll.attach(model, ll.PrefixLayer(2, 2))
    one, other = (model(input_ids=torch.tensor([row])).logits[0, -1] for row in ([5, 6, 7], [8, 9, 10]))
    assert (one - other).abs().max() > 1e-3


def test_trained_activations_replace_what_the_block_would_see() -> None:
    model = llama()
    adapter = ll.attach(model, ll.PrefixLayer(3, 0))
    seen: list[Tensor] = []
    model.model.layers[1].base.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(input_ids=torch.tensor([[5, 6, 7]]))
    trained = adapter.updates["model.layers.1"].added.get_parameter("activations")
    torch.testing.assert_close(seen[0][0, :3], trained)


def test_counts() -> None:
    model = gpt2()
    adapter = ll.attach(model, ll.PrefixLayer(3, 2))
    assert sum(p.numel() for p in adapter.parameters()) == 3 * 32 * 5
    assert inserted_positions(adapter.updates) == 5


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_activations_are_as_wide_as_the_blocks(device: str) -> None:
    with torch.device(device):
        model = opt(16)
    adapter = ll.attach(model, ll.PrefixLayer(3, 2))
    assert sum(p.numel() for p in adapter.parameters()) == 5 * (16 + 32)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        model = build("llama").train()
        torch.manual_seed(1)
        adapter = ll.attach(model, ll.PrefixLayer(2, 2))
        if checkpointing:
            compute_blocks_again(model)
        logits(model).square().sum().backward()
        return [parameter.grad for parameter in adapter.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other)


def test_the_end_of_a_prompt_is_read_from_the_labels() -> None:
    labels = torch.tensor([[-100, -100, 7, 8], [-100, -100, -100, -100], [3, 4, 5, -100]])
    assert ends_before_targets(labels, -100).tolist() == [2, 4, 0]


def test_a_cut_row_ends_where_it_is_cut() -> None:
    places = Places.of(torch.tensor([9]), tokens=4, prefix=1, infix=1, first=0, reads_ahead=True)
    assert places.trained_BS.tolist() == [[0, 5]]


@pytest.mark.parametrize("method", ["prefix-embed", "prefix-layer"])
def test_prompts_longer_than_the_probe_of_the_loss_are_measured(method: str) -> None:
    """The way to the loss is found out on a row's first tokens, before its prompt ends."""
    model, ids = build("llama"), torch.randint(2, 64, (2, 20))
    ll.attach(model, SPECS[method])
    labels = ids.where(torch.arange(20) >= 15, -100)
    batch = Batch({"input_ids": ids}, labels, tokens=40, targets=10)
    loss, targets = batch_target_loss(model, batch)
    with prompts_end_at(torch.tensor([15, 15])):
        logits_BTV = model(input_ids=ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    assert targets == 10
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [60, 64])
def test_a_text_that_leaves_no_room_is_refused(length: int) -> None:
    model = build("gpt2")
    ll.attach(model, ll.PrefixEmbedding(3, 2))
    with pytest.raises(ll.SpecError, match="context is 64"):
        model(input_ids=torch.ones(1, length, dtype=torch.long))


def test_a_mixed_batch_is_refused() -> None:
    model = build("gpt2")
    ll.attach(model, ll.PrefixEmbedding(3, 2), name="one")
    with ll.rows(model, ["one", None]), pytest.raises(ll.AdapterStateError, match="rows"):
        logits(model)


def test_models_that_cannot_are_refused() -> None:
    with pytest.raises(ll.TargetError, match="not a transformers model"):
        ll.attach(torch.nn.Sequential(torch.nn.Linear(2, 2)), ll.PrefixEmbedding(1, 1))
    with pytest.raises(ll.SpecError, match="at least one"):
        ll.PrefixLayer(0, 0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    albert = AlbertForSequenceClassification(AlbertConfig(**sizes, num_hidden_layers=3))
    with pytest.raises(ll.TargetError, match="runs its 1 3 times; choose prefix-embed"):
        ll.attach(albert, ll.PrefixLayer(1, 1))
    assert ll.attach(albert, ll.PrefixEmbedding(1, 1))
