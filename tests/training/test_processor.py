"""The tokenizer or image processor that a run leaves beside its adapter, and that a run from an adapter begins with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import loralab as ll
from loralab.formats.tokenizer import with_own_tokenizer
from loralab.models.load import load_model
from loralab.tasks.table import open_task
from tiny import TEMPLATE, byte_tokenizer, write_images, write_vit

Run = Callable[..., ll.TrainConfig]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")  # of PEFT's making


def test_the_folder_is_whole_for_peft_and_transformers(configured: Run) -> None:
    config = configured(steps=1, targets="q_proj")
    out = Path(ll.train(config).adapter)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("say b")["input_ids"] == AutoTokenizer.from_pretrained(config.model)("say b")["input_ids"]
    assert tokenizer.chat_template == TEMPLATE
    assert isinstance(AutoPeftModelForCausalLM.from_pretrained(out), PeftModel)
    assert not list(out.glob(".loralab-*"))


def test_it_is_the_models_own_and_nothing_is_said_of_it(configured: Run) -> None:
    config = configured(steps=1)
    ll.train(config)
    before = load_model(config.model, dtype="float32", device="cpu")
    assert with_own_tokenizer(before, config.out) is before


def test_a_classifiers_tokenizer_cuts_no_text_afterwards(classifying: Run) -> None:
    config = classifying(epochs=None, steps=1, max_length=8)
    ll.train(config)
    tokenizer = AutoTokenizer.from_pretrained(config.out)
    assert tokenizer.backend_tokenizer.truncation is None
    assert tokenizer.backend_tokenizer.padding is None


def test_an_image_processor_likewise(tmp_path: Path) -> None:
    model, data = write_vit(tmp_path / "vit", num_labels=2), write_images(tmp_path / "data", 4, 2)
    config = ll.TrainConfig(
        model=str(model), task="images", data=str(data), out=str(tmp_path / "run"), rank=2, steps=1, device="cpu"
    )
    ll.train(config)
    assert AutoImageProcessor.from_pretrained(config.out, backend="pil").size == {"height": 8, "width": 8}


def test_another_run_leaves_nothing_of_the_tokenizer_before(configured: Run) -> None:
    config = configured(steps=1)
    out = Path(ll.train(config).adapter)
    for name in ("added_tokens.json", "vocab.txt"):
        (out / name).write_text("{}")
    ll.train(replace(config, overwrite=True))
    assert not (out / "added_tokens.json").exists()
    assert not (out / "vocab.txt").exists()
    assert (out / "tokenizer.json").exists()


SAVED = {
    "in full": ("modules_to_save", ["embed_tokens", "lm_head"]),
    "by index": ("trainable_token_indices", {"embed_tokens": [258, 259], "lm_head": [258, 259]}),
}


def earlier(config: ll.TrainConfig, folder: Path, tokenizer: PreTrainedTokenizerFast, **more: object) -> Path:
    """What PEFT leaves of a run that may have added tokens."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(config.model)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **more))
    peft.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def started(config: ll.TrainConfig, folder: Path, **more: object) -> ll.TrainConfig:
    """A run from an adapter of PEFT's, by one step that moves nothing."""
    return replace(config, init_adapter=str(folder), targets="q_proj", alpha=8.0, steps=1, lr=1e-30, **more)


@pytest.mark.parametrize("way", SAVED)
def test_a_run_begins_with_the_added_tokens_of_its_first_adapter(configured: Run, tmp_path: Path, way: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["say", "<|b|>"])
    name, value = SAVED[way]
    folder = earlier(configured(), tmp_path / "peft", tokenizer, **{name: value})
    config = started(configured(), folder, **{name: value})
    result = ll.train(config)
    assert AutoTokenizer.from_pretrained(config.out)("say <|b|>")["input_ids"] == [
        258,
        *tokenizer(" ")["input_ids"],
        259,
    ]
    losses = []
    for place in (folder, config.out):
        loaded = with_own_tokenizer(load_model(config.model, dtype="float32", device="cpu"), place)
        ll.load(loaded.model, place)
        task = open_task("jsonl", config.data)
        losses.append(ll.evaluate(loaded.model, loaded.tokenizer, task, "validation", limit=8, batch_size=8).loss)
    assert losses == pytest.approx([result.metrics["loss"]] * 2, abs=1e-5)
    assert "2 tokens are added ('say', '<|b|>')" in loaded.notes[0]


def test_a_run_begins_with_the_template_of_its_first_adapter(configured: Run, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    config = started(configured(), earlier(configured(), tmp_path / "peft", tokenizer))
    ll.train(config)
    assert AutoTokenizer.from_pretrained(config.out).chat_template == tokenizer.chat_template


def test_a_run_does_not_begin_with_ids_that_mean_other_tokens(configured: Run, tmp_path: Path) -> None:
    folder = earlier(configured(), tmp_path / "peft", byte_tokenizer())
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"a": 66', '"a": 67').replace('"b": 67', '"b": 66'))
    with pytest.raises(ll.AdapterFileError, match=r"other ids to 2 of its tokens \('a', 'b'\)"):
        ll.train(started(configured(), folder))
    assert not Path(configured().out).exists()
