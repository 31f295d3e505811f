"""Ctrl-C and SIGTERM: the step ends, a checkpoint says where it stands, and going on comes to the same."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralab as ll
from loralab.training.interrupt import Asked, RunStopped, interruptible

Configure = Callable[..., ll.TrainConfig]


@contextmanager
def signalled(number: int, config: ll.TrainConfig, split: str) -> Iterator[None]:
    """A signal reaches this process once the journal has an entry of the split after step 0."""
    journal, over = Path(config.out, "metrics.jsonl"), threading.Event()

    def wait() -> None:
        while not over.is_set():
            entries = map(json.loads, journal.read_text().splitlines()) if journal.is_file() else ()
            if any(each["split"] == split and each["step"] for each in entries):
                os.kill(os.getpid(), number)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_adapter(configured: Configure, number: signal.Signals) -> None:
    config = configured("stopped", steps=60, save_every=0, eval_every=20)
    with signalled(number, config, "train"), pytest.raises(RunStopped) as stopped:
        ll.train(config)
    assert stopped.value.status == 128 + number
    assert "--resume" in str(stopped.value)
    assert "--adapter" in str(stopped.value)
    assert list(Path(config.out, "checkpoints").glob("step-*.safetensors"))
    assert not Path(config.out, "adapter_model.safetensors").exists()
    again, whole = replace(config, resume=True), configured("whole", steps=60, save_every=0, eval_every=20)
    resumed, uninterrupted = ll.train(again), ll.train(whole)
    assert (resumed.last_loss, resumed.best_step) == (uninterrupted.last_loss, uninterrupted.best_step)
    ours, theirs = (load_file(Path(each.out, "adapter_model.safetensors")) for each in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_evaluation_that_was_stopped_is_made_up_for(configured: Configure) -> None:
    def entries(config: ll.TrainConfig) -> list[tuple[int, str, float]]:
        lines = Path(config.out, "metrics.jsonl").read_text().splitlines()
        return [(each["step"], each["split"], each["loss"]) for each in map(json.loads, lines)]

    def run(out: str) -> ll.TrainConfig:
        return configured(out, steps=6, eval_every=1, save_every=0, samples=8)

    config, whole = run("stopped"), run("whole")
    with signalled(signal.SIGINT, config, "validation"), pytest.raises(RunStopped):
        ll.train(config)
    resumed, uninterrupted = ll.train(replace(config, resume=True)), ll.train(whole)
    assert entries(config) == entries(whole)
    assert resumed.best_step == uninterrupted.best_step


def test_signals_do_what_they_did_once_the_run_is_over(configured: Configure) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ll.train(configured(steps=1))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_in_another_thread_sets_no_signals(configured: Configure) -> None:
    results: list[ll.TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(ll.train(configured(steps=1))))
    thread.start()
    thread.join()
    assert results[0].steps == 1


def test_one_signal_is_remembered_and_two_stop_at_once() -> None:
    with interruptible() as interruption:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Asked):
            interruption.check()
        with pytest.raises(RunStopped, match="at once") as stopped:
            signal.raise_signal(signal.SIGTERM)
    assert stopped.value.status == 143


def test_a_signal_ends_what_only_looks() -> None:
    with interruptible() as interruption, pytest.raises(Asked), interruption.only_looking():
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as interruption:
            signal.raise_signal(signal.SIGINT)
        assert interruption.number is None
    finally:
        signal.signal(signal.SIGINT, before)
