"""The tokenizer or image processor that a run leaves beside its adapter, and that a run from an adapter begins with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoImageProcessor, AutoTokenizer

import loralab as ll
from loralab.formats.folder_tokenizer import with_own_tokenizer
from loralab.models.load import load_model
from tiny import TEMPLATE, write_images, write_vit

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
