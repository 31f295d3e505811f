"""What the processes of a test do: functions that they can find by name."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

import loralab as ll
from loralab.errors import LoralabError
from loralab.formats.quantized import quantize_base
from loralab.models.families.blocks import blocks_of
from loralab.models.load import load_model
from loralab.processes.gradients import add_up_gradients
from loralab.processes.group import Processes
from loralab.processes.joining import joined
from loralab.processes.sharding import shard_blocks, shards_of
from loralab.training.interrupt import interruptible
from tiny import byte_tokenizer

Trained = ll.TrainResult | str


def train_each(configs: Sequence[ll.TrainConfig]) -> list[Trained]:
    """The result of each run, or the error that it ended with."""
    with joined("cpu"):
        return [_trained(config) for config in configs]


def _trained(config: ll.TrainConfig) -> Trained:
    try:
        return ll.train(config)
    except LoralabError as error:
        return f"{type(error).__name__}: {error}"


def work_together(failing: int) -> dict[str, object]:
    """Everything that a group does, once."""
    with joined("cpu") as processes:
        said: dict[str, object] = {"own": processes.gather(lambda: processes.index)}
        said["first"] = processes.first(lambda: f"of process {processes.index}")
        said["map"] = processes.map(lambda number: number * number, [3, 1, 2])
        said["largest"] = processes.largest(processes.index * 10)
        taken = torch.full((2,), float(processes.index))
        processes.take_from_first([taken])
        said["taken"] = taken.tolist()
        weight, idle, half = (nn.Parameter(torch.zeros(2)) for _ in range(3))
        weight.grad = torch.full((2,), float(processes.index + 1))
        half.grad = torch.ones(2) if processes.is_first else None
        said["loss"] = add_up_gradients(processes, [weight, idle, half, weight], 0.5)
        said["gradients"] = [None if each.grad is None else each.grad.tolist() for each in (weight, idle, half)]
        refused = ll.SpecError("asked for too much")
        said["together"] = _met(
            processes, lambda: processes.together(lambda: _fail(processes.index == failing, refused))
        )
        said["gather"] = _met(processes, lambda: processes.gather(lambda: _fail(processes.index == failing, refused)))
        bug = ValueError("a bug")
        said["bug"] = _met(processes, lambda: processes.map(lambda each: _fail(each == failing, bug), [0, 1]))
        facts = {"a file": str(processes.index), "torch": "2"}
        said["alike"] = _met(processes, lambda: processes.check_alike(lambda: facts))
        return said


def _met(processes: Processes, work: Callable[[], object]) -> list[str]:
    """The error that each process meets."""
    try:
        work()
    except (LoralabError, ValueError) as error:
        own = f"{type(error).__name__}: {error} {getattr(error, 'is_known_to_all', None)}"
        return processes.gather(lambda: own)
    return []


def _fail(now: bool, error: Exception) -> None:
    if now:
        raise error


def fail_alone(error: Exception) -> None:
    """The second process meets an error that the first one, which waits for it, knows nothing of."""
    with joined("cpu") as processes:
        _fail(processes.index == 1, error)
        processes.largest(0)


def die_alone() -> None:
    """The second process is killed while the first one waits for it."""
    with joined("cpu") as processes:
        if processes.index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        processes.largest(0)


def wait_to_be_asked(ready: Path) -> None:
    """Until one of the processes has heard a signal."""
    with joined("cpu") as processes, interruptible(processes) as interruption:
        processes.first(ready.touch)
        while True:
            interruption.check()
            time.sleep(0.05)


def shard_a_toy() -> dict[str, object]:
    """What a process holds of two blocks, before, within and after a pass."""
    with joined("cpu") as processes:
        torch.manual_seed(0)  # both have the same base, as both read the same file
        blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        model = nn.Sequential(nn.Embedding(4, 8), *blocks)
        extra = nn.Parameter(torch.ones(8))
        blocks[0].register_parameter("extra", extra)
        model.requires_grad_(False)
        extra.requires_grad_(True)
        x = torch.tensor([1, 2])
        whole = model(x)
        said: dict[str, object] = {"sharded": str(shard_blocks(model, list(blocks), [extra], shards_of(processes)))}
        within: list[int] = []
        blocks[1].register_forward_hook(lambda module, *_: within.append(_held(module)), prepend=True)
        said["same"] = torch.allclose(model(x), whole, atol=1e-6)
        said["within"] = within
        said["held"] = [_held(block) for block in blocks]
        said["extra"] = type(extra).__name__
        return said


def _held(module: nn.Module) -> int:
    """Elements of its parameters that lie in this process."""
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in module.parameters())


def take_turns(place: Path) -> list[str]:
    """Each says when its turn begins and ends."""
    with joined("cpu") as processes:

        def speak() -> None:
            for said in ("begins", "ends"):
                with place.open("a") as file:
                    file.write(f"{processes.index} {said}\n")
                time.sleep(0.05)

        processes.in_turn(speak)
        return place.read_text().splitlines()


def load_in_parts(folder: Path, how: str | None) -> dict[str, int]:
    """A random Llama of a billion weights, loaded in parts: how many there are, the bytes that they take whole, and the
    most memory of its own that any process had beyond what it had before."""
    with joined("cpu") as processes:
        processes.first(lambda: _write_large(folder))
        own = processes.gather(lambda: 0)  # all begin together
        before = _own_memory()
        with _watched() as most:
            model = load_model(str(folder), dtype="bfloat16", device="cpu").model
            weights = sum(parameter.numel() for parameter in model.parameters())
            shards = shards_of(processes)
            if how is not None:
                quantize_base(model, how, part=shards.part)
            shard_blocks(model, blocks_of(model), [], shards)
        own = processes.gather(lambda: most[0] - before)
        return {"weights": weights, "whole": 2 * weights, "peak": max(own)}


def _write_large(folder: Path) -> None:
    """2 GB in bfloat16, block by block, so that nobody holds it whole."""
    config = transformers.LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=18, num_attention_heads=16, vocab_size=512
    )
    with torch.device("meta"):
        shapes = transformers.LlamaForCausalLM(config).to(torch.bfloat16).state_dict()
    byte_tokenizer().save_pretrained(folder)
    config.save_pretrained(folder)
    random = torch.Generator().manual_seed(0)
    names = {name: f"model-{int(name.split('.')[2]) if 'layers' in name else 99}.safetensors" for name in shapes}
    for file in sorted(set(names.values())):
        held = {
            name: torch.empty(shapes[name].shape, dtype=torch.bfloat16).uniform_(-0.02, 0.02, generator=random)
            for name in shapes if names[name] == file
        }  # fmt: skip
        save_file(held, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def _own_memory() -> int:
    """Bytes that only this process has: the pages of a mapped file are everybody's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def _watched() -> Iterator[list[int]]:
    """The most of it within the block, looked at a hundred times a second."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], _own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
