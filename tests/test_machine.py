"""Choosing a device, and the threads that compute."""

import subprocess
import sys

import pytest
import torch

from loralab.errors import SpecError
from loralab.machine import choose_device


def test_auto_is_a_device_that_works() -> None:
    assert torch.zeros(1, device=choose_device("auto")).item() == 0


def test_the_cpu_can_be_asked_for() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (name, "is not on this machine, or not in its torch .*: there is cpu")
            for name in ("cuda:99", "CUDA:99", "hpu")
        ),
        *(
            (name, "is no device's name: write auto, cpu, cuda ")
            for name in ("gpu", "", "0", "mkldnn", "privateuseone")
        ),
        ("meta", "holds no numbers"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=rf"^device '{name}' {message}[^\n]*$"):
        choose_device(name)


THREADS = """
import torch
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from loralab.machine import let_threads_go

def there(): return sum(1 for _ in Path("/proc/self/task").iterdir())
def compute(): return torch.ones(512, 512) @ torch.ones(512, 512)

torch.set_num_threads(4)
with ThreadPoolExecutor(1) as pool:
    pool.submit(int).result()
    begun = there()
    pool.submit(compute).result()
    together = there()
    pool.submit(let_threads_go).result()
    print(together - begun, there() - begun, pool.submit(torch.get_num_threads).result())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts a process's threads as Linux shows them")
def test_a_thread_lets_those_go_that_computed_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "0", "4"]


COLLECTING = """
import gc, weakref
from loralab.machine import collect_only_what_comes

class Ring: pass
def ring():
    made = Ring()
    made.itself = made
    return weakref.ref(made)

before = ring()
collect_only_what_comes()
frozen, after = gc.get_freeze_count(), ring()
gc.collect()
print(before() is None, frozen > 10000, after() is None)
"""


def test_the_collector_looks_at_what_comes_and_not_at_what_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTING], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
