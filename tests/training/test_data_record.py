"""A run remembers its data, and a resumed one goes on with the same or says what changed."""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

import loralab as ll
from loralab.tasks.example import Conversation, Example, LabelledExample, Message
from loralab.tasks.table import open_task
from loralab.training.data_record import check_unchanged, hash_examples, record_data
from loralab.training.folder import RunFolder

Configure = Callable[..., ll.TrainConfig]


def data_of(config: ll.TrainConfig) -> list[Path]:
    path = Path(str(config.data))
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def test_every_file_is_in_the_record_and_a_changed_one_is_named(configured: Configure) -> None:
    config = configured(steps=2)
    ll.train(config)
    recorded = RunFolder(Path(config.out)).read_record()["data"]["files"]
    assert recorded == {path.name: sha256(path.read_bytes()).hexdigest() for path in data_of(config)}
    ll.train(replace(config, steps=3, resume=True))
    changed = data_of(config)[0]
    changed.write_bytes(changed.read_bytes() + b"\n")
    with pytest.raises(ll.DataError, match=rf"cannot be resumed on other data .*{changed.name} has changed.*overwrite"):
        ll.train(replace(config, steps=4, resume=True))
    ll.train(replace(config, steps=4, overwrite=True))


def test_a_record_without_hashes_is_resumed_with_a_note(configured: Configure) -> None:
    config = configured(steps=2)
    ll.train(config)
    folder = RunFolder(Path(config.out))
    before = folder.read_record()
    del before["data"]
    folder.record.write_text(json.dumps(before))
    ll.train(replace(config, steps=3, resume=True))
    after = folder.read_record()
    assert any("did not record its data" in note for note in after["notes"])
    assert after["data"]["files"]


def test_files_that_came_or_went_are_named() -> None:
    before = {"data": {"files": {"train.jsonl": "1", "valid.jsonl": "2"}}}
    with pytest.raises(ll.DataError, match=r"dev\.csv was not among the data; valid\.jsonl is not among the data any"):
        check_unchanged(before, {"files": {"train.jsonl": "1", "dev.csv": "2"}}, Path("run"))


def test_data_of_no_file_are_known_by_their_examples() -> None:
    task = open_task("docstrings")
    found = record_data(task, None, ["train", "validation"])
    assert found["files"] == {}
    assert found["examples"].keys() == {"train", "validation"}
    other = {"data": {"files": {}, "examples": found["examples"] | {"train": "0"}}}
    with pytest.raises(ll.DataError, match="train has changed"):
        check_unchanged(other, found, Path("run"))


def test_every_kind_of_example_is_hashed_by_what_it_says() -> None:
    one, other = LabelledExample("a", None, 0), LabelledExample("a", None, 1)
    assert hash_examples([one, other]) != hash_examples([other, one])
    assert hash_examples([one]) != hash_examples([replace(one, weight=2.0)])
    assert hash_examples([Example("a", "b")]) != hash_examples([Example("a", "c")])
    talk = Conversation((Message("user", "q"), Message("assistant", "a")))
    assert hash_examples([talk]) != hash_examples([replace(talk, tools=({"name": "f"},))])
