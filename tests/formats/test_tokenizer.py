"""Adapters as trainers leave them: with a tokenizer and a chat template beside them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import loralab as ll
from loralab.errors import AdapterFileError
from loralab.formats.merged.folder import write_merged
from loralab.formats.tokenizer import with_own_tokenizer
from loralab.models.load import LoadedModel, load_model
from loralab.models.processor import write_processor
from small_tokenizers import KINDS, small_tokenizer
from tiny import byte_tokenizer, write_llama

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")  # of PEFT's making

OTHER = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<eos>{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("base"))


def peft_folder(
    base: Path, folder: Path, tokenizer: PreTrainedTokenizerFast | None, rows: int | None = None, **more: object
) -> Path:
    """What PEFT saves after some training, with a tokenizer beside it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **more))
    adapted.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def opened(base: Path, folder: Path) -> LoadedModel:
    loaded = with_own_tokenizer(load_model(str(base), dtype="float32", device="cpu"), folder)
    ll.load(loaded.model, folder)
    return loaded


def changed(change: Callable[[PreTrainedTokenizerFast], object]) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    change(tokenizer)
    return tokenizer


def test_a_template_beside_the_adapter_is_used_and_said(base: Path, tmp_path: Path) -> None:
    tokenizer = changed(lambda each: setattr(each, "chat_template", OTHER))
    loaded = opened(base, peft_folder(base, tmp_path, tokenizer))
    assert loaded.tokenizer.chat_template == OTHER
    assert "its chat template is another" in loaded.notes[0]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    alone = opened(base, tmp_path)
    assert alone.tokenizer.chat_template == OTHER
    assert "the chat template in" in alone.notes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_of_the_same_tokenizer_nothing_is_said(tmp_path: Path, kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    base = write_llama(tmp_path / "base", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(base)
    before = load_model(str(base), dtype="float32", device="cpu")
    before.tokenizer("one text", "and another", truncation="longest_first", max_length=3)
    write_processor(before.tokenizer, peft_folder(base, tmp_path / "adapter", None))
    assert with_own_tokenizer(before, tmp_path / "adapter") is before
    assert json.loads((tmp_path / "adapter" / "tokenizer.json").read_text())["truncation"] is None


def test_tokens_that_only_the_model_has_are_said(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", vocab_size=260)
    changed(lambda each: each.add_tokens(["<|a|>", "<|b|>"])).save_pretrained(base)
    loaded = opened(base, peft_folder(base, tmp_path / "adapter", byte_tokenizer()))
    assert "2 of the model's tokens are not in it ('<|a|>', '<|b|>')" in loaded.notes[0]
    assert len(loaded.tokenizer("<|a|>")["input_ids"]) == 5


def test_merges_in_another_order_are_said(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("byte-level")
    base = write_llama(tmp_path / "base", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(base)
    file = peft_folder(base, tmp_path / "adapter", tokenizer) / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"].reverse()
    file.write_text(json.dumps(content))
    assert "it parts texts otherwise" in opened(base, tmp_path / "adapter").notes[0]


def test_without_a_tokenizer_the_models_own_remains(base: Path, tmp_path: Path) -> None:
    before = load_model(str(base), dtype="float32", device="cpu")
    assert with_own_tokenizer(before, peft_folder(base, tmp_path, None)) is before


@pytest.mark.parametrize("saved", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}])
def test_added_tokens_have_the_rows_that_the_adapter_holds(base: Path, tmp_path: Path, saved: dict) -> None:
    tokenizer = changed(lambda each: each.add_tokens(["<|a|>", "<|b|>"]))
    folder = peft_folder(base, tmp_path / "adapter", tokenizer, 260, **saved)
    if not saved:  # PEFT's own choice: it saves embeddings that were resized
        model = get_peft_model(_resized(base, 260), LoraConfig(r=2, target_modules=["q_proj"]))
        model.save_pretrained(folder, save_embedding_layers=True)
    loaded = opened(base, folder)
    assert loaded.model.get_input_embeddings().get_parameter("weight").shape[0] == 260
    assert "2 tokens are added ('<|a|>', '<|b|>')" in loaded.notes[0]
    ids = torch.tensor([loaded.tokenizer("say <|b|>")["input_ids"]])
    assert int(ids.max()) == 259
    merged = write_merged(
        loaded.model, "adapter", tmp_path / "merged", source=base, tokenizer=loaded.tokenizer, own_tokenizer=True
    )
    again = AutoModelForCausalLM.from_pretrained(merged.out).eval()
    assert torch.allclose(again(ids).logits, loaded.model(ids).logits, atol=1e-4)
    assert AutoTokenizer.from_pretrained(merged.out)("say <|b|>")["input_ids"] == ids[0].tolist()


def _resized(base: Path, rows: int) -> torch.nn.Module:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def test_embeddings_that_a_trainer_cut_to_its_tokenizer(base: Path, tmp_path: Path) -> None:
    wide = write_llama(tmp_path / "wide", vocab_size=320)
    saved = {"modules_to_save": ["embed_tokens", "lm_head"]}
    loaded = opened(wide, peft_folder(wide, tmp_path / "adapter", byte_tokenizer(), 258, **saved))
    assert loaded.model.config.vocab_size == 258
    assert loaded.notes == ("the model embeds 258 tokens instead of 320, as the adapter does",)
    assert not loaded.own_tokenizer


def test_added_tokens_in_rows_that_the_model_has_to_spare(tmp_path: Path) -> None:
    wide = write_llama(tmp_path / "wide", vocab_size=264)
    tokenizer = changed(lambda each: each.add_tokens(["<|a|>"]))
    loaded = opened(wide, peft_folder(wide, tmp_path / "adapter", tokenizer))
    assert "1 tokens are added" in loaded.notes[0]
    assert loaded.model.config.vocab_size == 264


def test_added_tokens_without_rows_are_refused(base: Path, tmp_path: Path) -> None:
    tokenizer = changed(lambda each: each.add_tokens(["<|a|>", "<|b|>"]))
    with pytest.raises(
        AdapterFileError, match=r"260 tokens, the model embeds 258, and the adapter holds no embeddings"
    ):
        opened(base, peft_folder(base, tmp_path, tokenizer))


def test_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    peft_folder(base, tmp_path, byte_tokenizer())
    file = tmp_path / "tokenizer.json"
    text = file.read_text()
    file.write_text(text.replace('"a": 66', '"a": 67').replace('"b": 67', '"b": 66'))
    if file.read_text() == text:
        pytest.fail("the vocabulary was expected to hold a and b beside each other")
    with pytest.raises(AdapterFileError, match=r"other ids to 2 of its tokens \('a', 'b'\)"):
        opened(base, tmp_path)


def test_merging_writes_the_tokenizer_that_was_used(base: Path, tmp_path: Path) -> None:
    tokenizer = changed(lambda each: setattr(each, "chat_template", OTHER))
    loaded = opened(base, peft_folder(base, tmp_path / "adapter", tokenizer))
    merged = write_merged(
        loaded.model, "adapter", tmp_path / "merged", source=base, tokenizer=loaded.tokenizer, own_tokenizer=True
    )
    assert AutoTokenizer.from_pretrained(merged.out).chat_template == OTHER
    shutil.rmtree(merged.out)


def test_saving_an_adapter_with_its_tokenizer_writes_both_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_llama(tmp_path / "base"))
    adapter, tokenizer = ll.attach(model, ll.LoRA(rank=2)), byte_tokenizer()
    ll.save(adapter, tmp_path / "sql", tokenizer=tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    ll.save(adapter, tmp_path / "sql", tokenizer=tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "sql").chat_template == "{{ messages }}"
    ll.save(adapter, tmp_path / "sql")
    assert AutoTokenizer.from_pretrained(tmp_path / "sql").chat_template == "{{ messages }}"
