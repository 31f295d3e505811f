"""Flags and configuration files that nobody should write: exit status 2 and a sentence, or 0; never a traceback."""

import hashlib
import importlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults.judging import Hang, cases, seeded, soon
from loralab.cli.fields import config_fields
from loralab.cli.main import main
from loralab.cli.table import modules
from tiny import write_pairs

LONG = ("demo", "completion")
"""They ask for nothing that could be wrong, and do all that they do."""
VERBS = {words: module for words, module in modules().items() if words[0] not in LONG}
TEXTS = st.one_of(
    st.sampled_from([
        "", " ", "-1", "0", "1", "2", "1.5", "1e400", "nan", "inf", "-inf", "9" * 5000, "²", "٣", "0x10", "1_000",
        "a,b", ",", ",,",
        "..", "../../etc/passwd", "/dev/null", "/proc/self/mem", "/", "~", "~nobody/x", "a\0b", "\ud800",
        "😀", "x" * 5000,
        "(a+)+$", "[", "q_proj", "q,v", "lora", "lora+bitfit", "+", "float32", "int4", "cpu", "cuda:99",
        "last", "auto", "true",
        "none", "{}", "[1]", "http://localhost:9/x", "org/name", "org/name/x", "--", "-", "--seed", "\n", "%s", "{0}",
    ]),
    st.text(max_size=6),
)  # fmt: skip


def flags_of(module: str) -> list[str]:
    config = importlib.import_module(module).VERB.config
    named = [flag for field in config_fields(config) for flag in field.flags]
    return [*named, *(flag.replace("--", "--no-", 1) for flag in named), "--json", "--config", "--nothing", "-x", "-h"]


FLAGS = {words: flags_of(module) for words, module in VERBS.items()}
HARMFUL = {"--host", "--port"}
"""What could make a verb wait for the world."""


@contextmanager
def in_folder(place: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HOME", str(place))
        yield


def ends_well(words: list[str], place: Path) -> None:
    place.mkdir(exist_ok=True)
    with in_folder(place), soon():
        assert main(words) in (0, 2), words


def asked(data: st.DataObject, verb: tuple[str, ...], place: Path) -> list[str]:
    """Flags of the verb with values of any kind; the model is one that is not there, so that nothing is computed."""
    flags = data.draw(st.lists(st.sampled_from(FLAGS[verb]), max_size=6))
    words = [word for flag in flags for word in (flag, *data.draw(st.lists(TEXTS, max_size=1)))]
    words = [word for word in words if word not in HARMFUL]
    known = [["--model", str(place / "none")]] if "--model" in FLAGS[verb] and data.draw(st.integers(0, 3)) else []
    known += [["--task", "jsonl", "--data", str(place / "pairs")]] if "--task" in FLAGS[verb] else []
    known += [["--out", str(place / "out")]] if "--out" in FLAGS[verb] and data.draw(st.booleans()) else []
    return [*verb, *words, *(word for each in known for word in each)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_pairs(folder / "pairs")
    return folder


@seeded
@cases(80)
@given(data=st.data(), verb=st.sampled_from(sorted(VERBS)))
def test_flags_of_any_kind(place: Path, data: st.DataObject, verb: tuple[str, ...]) -> None:
    ends_well(asked(data, verb, place), place)


@pytest.mark.faults
@seeded
@cases(2000)
@given(data=st.data(), verb=st.sampled_from(sorted(VERBS)))
def test_thousands_of_flags_of_any_kind(place: Path, data: st.DataObject, verb: tuple[str, ...]) -> None:
    ends_well(asked(data, verb, place), place)


# -- files of --config ------------------------------------------------------------------------------------------------

CONFIGS: Mapping[str, bytes] = {
    "no TOML": b"rank 4",
    "not UTF-8": b"rank = \xff",
    "deep": b"rank = " + b"[" * 100_000,
    "deep tables": b"[" + b"a." * 20_000 + b"b]\nrank = 1",
    "a long number": b"rank = " + b"9" * 5000,
    "a long float": b"lr = 1e" + b"9" * 5000,
    "a key twice": b"rank = 1\nrank = 2",
    "a date": b"rank = 2020-01-01",
    "a date that is none": b"rank = 2020-99-99",
    "a table": b"[rank]\na = 1",
    "a list": b"rank = [1, 2]",
    "not a number": b"lr = nan",
    "infinite": b"lr = inf",
    "a key of anything": b'"\\u0000" = 1',
    "half a character": b'targets = "\\ud800"',
    "nothing": b"",
    "a byte-order mark": b"\xef\xbb\xbfrank = 'x'",
    "a megabyte": b"targets = '" + b"x" * 2**20 + b"'",
}


@pytest.mark.parametrize("what", CONFIGS)
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_configuration_file(place: Path, what: str, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / f"a.{suffix}"
    path.write_bytes(CONFIGS[what])
    capsys.readouterr()
    ends_well(["train", "--config", str(path), "--model", "none", "--task", "jsonl", "--out", "x"], place)
    said = capsys.readouterr().err
    assert "error: " in said
    assert len(said) < 10_000


@pytest.mark.parametrize("content", [{"config": 1}, {"config": {"rank": []}}, [], 1, None, {"rank": {"a": 1}}])
def test_a_run_that_is_none(place: Path, content: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "run.json").write_text(json.dumps(content))
    ends_well(["train", "--config", str(place / "run.json"), "--model", "none", "--out", "x"], place)
    assert "error: " in capsys.readouterr().err


def test_the_watch_of_time_is_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faults.judging.LONGEST", 0.05)
    with pytest.raises(Hang), soon():
        time.sleep(5)


def test_so_it_is_where_no_handler_of_signals_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faults.judging.LONGEST", 0.05)
    with pytest.raises(Hang), soon():
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**6)


def test_a_process_that_was_stopped_has_not_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faults.judging.LONGEST", 0.4)
    with subprocess.Popen(["sh", "-c", f"sleep 0.8; kill -CONT {os.getpid()}"]), soon():
        os.kill(os.getpid(), signal.SIGSTOP)
