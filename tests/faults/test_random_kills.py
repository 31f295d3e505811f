"""Kills at moments that nobody chose, over whole verbs: what was there is there, or what was to be there is.

A verb runs in a forked child, so that it starts in a moment. Half of the kills come before one of its operations on
files, with the file that was being written cut in half; the other half after a part of the time that the verb takes, by
the system. `make faults` makes 190, and 10 of a server (`test_killed_server.py`); FAULTS_SEED chooses others.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import loralab as ll
from faults.judging import SEED
from faults.killing import Files, files_of, killed, killed_after, leftovers, operations_of
from loralab.cli.main import main
from loralab.files.commit import settle
from loralab.files.locks import LOCK_NAME, try_lock
from loralab.models.load import load_model
from tiny import write_llama, write_pairs
from toys import give_effect


@dataclass(frozen=True)
class Verb:
    """What is killed: how its place is made ready, what it does, and what is the same however often it was killed."""

    name: str
    before: Path | None
    """A folder that lies in the place before; None where there is none."""
    act: Callable[[Path], object]
    """It does all that is left to do, and can be asked again."""
    may_be_read: Callable[[Path], object]
    """Raises where something is taken for whole and is not."""
    lasting: Callable[[Path], Files]
    """Of a finished place."""


def done(words: list[str]) -> None:
    assert main(words) == 0, words


def flags(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, and two adapters of it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ground")
    write_llama(folder / "llama")
    write_pairs(folder / "pairs")
    for number, name in enumerate(("old", "new")):
        model = load_model(folder / "llama").model
        torch.manual_seed(number)
        adapter = ll.attach(model, ll.LoRA(rank=2, targets=["q_proj"]))
        give_effect(adapter)
        ll.save(adapter, folder / name, model=model)
    done(["merge", *flags(model=folder / "llama", adapter=folder / "old", dtype="float32", out=folder / "merged")])
    return folder


def run_words(ground: Path, verb: str, out: Path) -> list[str]:
    how = {"model": ground / "llama", "task": "jsonl", "data": ground / "pairs", "batch_size": 4, "dtype": "float32"}
    return [verb, *flags(**how, device="cpu", eval_limit=4, out=out)]


def train(ground: Path) -> Verb:
    def act(place: Path) -> None:
        begun = (place / "run.json").is_file()
        how = flags(rank=2, steps=6, save_every=2, targets="q_proj", samples=0)
        done([*run_words(ground, "train", place), *how, *(["--resume"] if begun else ["--overwrite"])])

    def lasting(place: Path) -> Files:
        """A checkpoint that was to be removed when the kill came may stay beside the newest."""
        old = ("checkpoints/step-00000002/", "checkpoints/step-00000004/")
        return {name: each for name, each in weights(place).items() if not name.startswith(old)}

    return Verb("train", None, act, lambda place: loads(ground, place), lasting)


def tune(ground: Path) -> Verb:
    """With dropout, so that the runs take turns: whether they are rows of one batch is measured, and shows in bits."""
    how = flags(ranks=2, lrs="1e-3,3e-2", seeds=1, steps=20, halvings=1, target_sets="q_proj", dropout=0.1)
    act = lambda place: done([*run_words(ground, "tune", place), *how])  # noqa: E731
    return Verb("tune", None, act, lambda place: None, lambda place: {
        name: each for name, each in weights(place).items() if name.startswith("best")
    })  # fmt: skip


def save(ground: Path) -> Verb:
    def act(place: Path) -> None:
        model = load_model(ground / "llama").model
        ll.save(ll.load(model, ground / "new"), place, model=model)

    return Verb("save", ground / "old", act, lambda place: loads(ground, place), files_of)


def merge(ground: Path) -> Verb:
    words = ["merge", *flags(model=ground / "llama", adapter=ground / "new", dtype="float32")]
    return Verb(
        "merge", ground / "merged", lambda place: done([*words, *flags(out=place), "--overwrite"]), whole_model,
        weights,
    )  # fmt: skip


def convert(ground: Path) -> Verb:
    words = ["convert", str(ground / "new")]
    return Verb(
        "convert", ground / "old", lambda place: done([*words, str(place), "--to", "peft", "--overwrite"]),
        lambda place: loads(ground, place), files_of,
    )  # fmt: skip


def compare(ground: Path) -> Verb:
    """The comparison is killed, and sometimes the training that it left behind as well."""
    how = flags(methods="lora,vera", seeds=1, steps=4, save_every=2, rank=2, targets="q_proj", lr=1e-3)
    chance = random.Random(f"{SEED} orphans")

    def act(place: Path) -> None:
        wait_until_free(place / "lock")
        done([*run_words(ground, "compare", place), *how])

    def may_be_read(place: Path) -> None:
        if (place / "results.json").is_file():
            json.loads((place / "results.json").read_text())
        for record in place.glob("cells/*/run.json"):
            if "result" in json.loads(record.read_text()):
                loads(ground, record.parent)
        if chance.random() < 0.5:
            end_orphan(place / "lock")

    def lasting(place: Path) -> Files:
        found = {name: each for name, each in weights(place).items() if "checkpoints" not in name}
        rows = json.loads((place / "results.json").read_text())["rows"]
        return found | {"rows": json.dumps([[row["method"], row["metrics"]] for row in rows]).encode()}

    return Verb("compare", None, act, may_be_read, lasting)


def wait_until_free(lock: Path) -> None:
    """A training that outlives its comparison holds the folder until it ends."""
    while lock.exists():
        descriptor = os.open(lock, os.O_RDWR)
        try:
            if try_lock(descriptor):
                return
        finally:
            os.close(descriptor)
        time.sleep(0.1)


def end_orphan(lock: Path) -> None:
    """Kill the training whose process the lock names, if it still holds that."""
    process = lock.read_text().strip() if lock.exists() else ""
    if process:
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


VERBS: dict[str, tuple[Callable[[Path], Verb], int, int]] = {
    "train": (train, 50, 1),
    "tune": (tune, 20, 0),
    "save": (save, 40, 2),
    "merge": (merge, 30, 1),
    "convert": (convert, 40, 2),
    "compare": (compare, 10, 0),
}
"""What is killed, how often in `make faults`, and how often in `make test`."""


def loads(ground: Path, place: Path) -> None:
    """An adapter that lies there is whole."""
    if (place / "adapter_config.json").is_file():
        model = load_model(ground / "llama").model
        ll.load(model, place)


def whole_model(place: Path) -> None:
    if place.exists():
        load_model(place)


def weights(place: Path) -> Files:
    """Of adapters and models; what lies beside them holds times, and so do a run's own states."""
    named = {Path(name): each for name, each in files_of(place).items()}
    return {str(name): each for name, each in named.items() if name.name in WEIGHTS}


WEIGHTS = ("adapter_model.safetensors", "adapter_config.json", "model.safetensors", "config.json")


def kills(verb: Verb, work: Path, number: int) -> int:
    """So many kills, and after each: nothing is taken for whole that is not, and the verb comes to the same end."""
    place, chance = work / "place", random.Random(f"{SEED} {verb.name}")

    def restore() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        if verb.before is not None:
            shutil.copytree(verb.before, place)

    def act() -> None:
        verb.act(place)

    restore()
    operations, seconds = operations_of(act, work)
    wanted, hit = verb.lasting(place), 0
    assert wanted
    for turn in range(number):
        restore()
        for _ in range(chance.choice([1, 1, 1, 2])):  # what goes on after a kill may be killed too
            by_file = turn % 2 == 0
            hit += (
                killed(act, work, chance.randrange(operations))
                if by_file
                else killed_after(act, chance.random() * seconds)
            )
            if place.exists():
                settle(place)
                verb.may_be_read(place)
        act()
        found = verb.lasting(place)
        others = [name for name in found.keys() | wanted if found.get(name) != wanted.get(name)]
        assert not others, f"turn {turn}: {others} differ"
        assert [name for name in leftovers(work) if Path(name).name != LOCK_NAME] == []  # a lock's file holds nobody up
    return hit


@pytest.mark.parametrize("name", [name for name, (_, _, few) in VERBS.items() if few])
def test_a_few_kills(ground: Path, tmp_path: Path, name: str) -> None:
    make, _, few = VERBS[name]
    assert kills(make(ground), tmp_path / "work", few)


@pytest.mark.faults
@pytest.mark.parametrize("name", VERBS)
def test_190_kills(ground: Path, tmp_path: Path, name: str) -> None:
    make, many, _ = VERBS[name]
    assert kills(make(ground), tmp_path / "work", many) >= many // 2
