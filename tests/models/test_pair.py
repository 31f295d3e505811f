"""`load_model`: a pair to unpack, in the precision and on the device that Python says."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

import loralab as ll
from tiny import write_bert, write_llama, write_t5


def test_a_language_model_of_either_sort_and_its_tokenizer(tmp_path: Path) -> None:
    for write in (write_llama, write_t5):
        model, tokenizer = ll.load_model(str(write(tmp_path / write.__name__)), dtype=torch.bfloat16, device="cpu")
        assert model.dtype == torch.bfloat16
        assert not model.training
        assert isinstance(tokenizer, PreTrainedTokenizerBase)


def test_a_classifier_has_its_labels_and_its_random_head_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "loralab"):
        model, _ = ll.load_model(str(write_bert(tmp_path)), kind="sequence-classification", labels=["no", "yes"])
    assert list(model.config.id2label.values()) == ["no", "yes"]
    assert "classifier is random, to be trained" in caplog.text


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ll.SpecError, match="device 'nowhere'"):
        ll.load_model(str(write_llama(tmp_path)), device="nowhere")
