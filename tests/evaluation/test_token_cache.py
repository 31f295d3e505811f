"""Tokens are made once for the same data, tokenizer and settings, and anew for others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from loralab.evaluation import token_cache
from loralab.evaluation.token_cache import encoded_once
from loralab.tasks.encoding.encode import Encoding, encode_examples
from loralab.tasks.example import AnyExample, Conversation, Document, Example, LabelledExample, Message, Preference
from loralab.tasks.task import Task

WRITE, LABEL = Task("toy", "generation", {}, ()), Task("toy", "classification", {}, (), ("a", "b"))
PAIRS = Task("toy", "preference", {}, ())
TALK = Conversation(tuple(Message(r, c) for r, c in (("user", "hi"), ("assistant", "yo"))), weight=2.0)
TEXTS = (Example("ab", " cd"), Example("x" * 80, " cut", weight=0.5), Example("", "é\U0001f600"))
CASES: dict[str, tuple[Task, tuple[AnyExample, ...]]] = {
    "texts": (WRITE, TEXTS),
    "conversations": (WRITE, (TALK, TALK)),
    "documents": (WRITE, (Document("long " * 40), Document("short"))),
    "pairs": (PAIRS, (Preference(TEXTS[0], Example("ab", " ef"), weight=3.0),)),
    "labels": (LABEL, (LabelledExample("a b", "c", 1), LabelledExample("d", None, None))),
    "values": (LABEL, (LabelledExample("a b", None, 0.1), LabelledExample("d", None, 1.0))),
}

Made = Callable[..., tuple[Encoding, int]]
"""longest -> the encoding, and how often it was made so far."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORALAB_CACHE", str(tmp_path))
    monkeypatch.setattr(token_cache, "LEAST_BYTES", 0)
    return tmp_path / "tokens"


def counted(task: Task, examples: tuple[AnyExample, ...], tokenizer: PreTrainedTokenizerFast, **more: bool) -> Made:
    made: list[Encoding] = []

    def again(longest: int = 64) -> tuple[Encoding, int]:
        def encode() -> Encoding:
            made.append(encode_examples(task, examples, tokenizer, longest, **more))
            return made[-1]

        return encoded_once(task, examples, tokenizer, (longest, more), encode), len(made)

    return again


@pytest.mark.parametrize("kind", CASES)
def test_the_second_time_they_are_read(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    again = counted(*CASES[kind], tokenizer)
    (first, _), (second, times) = again(), again()
    assert times == 1
    assert second.encoded == first.encoded
    assert [type(each.weight) for each in second.encoded] == [float] * len(first.encoded)
    assert (second.truncated, second.notes[:-1]) == (first.truncated, first.notes)
    assert "an earlier run kept" in second.notes[-1]


def test_of_an_encoder_decoder_and_of_two_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    apart = counted(WRITE, TEXTS, tokenizer, encoder_decoder=True)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    types = counted(*CASES["labels"], tokenizer)
    for again in (apart, types):
        first, second = again()[0], again()[0]
        assert second.encoded == first.encoded
    assert apart()[0].encoded[0].decoded
    assert types()[0].encoded[0].token_type_ids is not None


def test_what_is_another_thing_is_made_anew(tokenizer: PreTrainedTokenizerFast) -> None:
    again = counted(WRITE, TEXTS, tokenizer)
    again()
    assert again(32)[1] == 2
    assert counted(WRITE, (*TEXTS[:2], replace(TEXTS[2], weight=2.0)), tokenizer)()[1] == 1
    assert counted(WRITE, TEXTS[::-1], tokenizer)()[1] == 1
    tokenizer.add_tokens(["ab"])
    assert again()[1] == 3
    tokenizer.chat_template = "{{ messages }}"
    assert again()[1] == 4


def test_a_template_that_writes_the_date_and_a_foreign_tokenizer_are_not_kept(
    tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    class Own(PreTrainedTokenizerFast):
        pass

    counted(WRITE, TEXTS, Own(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>"))()
    tokenizer.chat_template = "{{ strftime_now('%d') }}"
    counted(WRITE, TEXTS, tokenizer)()
    assert not folder.exists()


def test_little_is_not_kept(tokenizer: PreTrainedTokenizerFast, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "LEAST_BYTES", 10_000)
    counted(WRITE, TEXTS, tokenizer)()
    assert not folder.exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[:-3] + b"\7" + data[-2:], lambda _: b""])
def test_a_damaged_file_is_said_and_made_anew(
    damage: Callable[[bytes], bytes], tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    again = counted(WRITE, TEXTS, tokenizer)
    first, _ = again()
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    second, times = again()
    assert (second.encoded, times) == (first.encoded, 2)
    assert "damaged and are made anew" in second.notes[-1]
    assert again()[1] == 2


def test_a_folder_that_cannot_be_made_is_said(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.write_text("in the way")
    found, _ = counted(WRITE, TEXTS, tokenizer)()
    assert "could not be kept" in found.notes[-1]


def test_it_is_private_and_the_oldest_goes_first(
    tokenizer: PreTrainedTokenizerFast, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = counted(WRITE, TEXTS, tokenizer)
    again()
    (first,) = folder.iterdir()
    assert first.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(token_cache, "MOST_BYTES", 3 * first.stat().st_size // 2)
    again(32)
    (left,) = folder.iterdir()
    assert left != first
