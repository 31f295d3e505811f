"""Everything that wants an accelerator, in one command: is it right there, how fast does it train, how does it decode.

    python -m benchmarks.gpu --out out/gpu
    python -m benchmarks.gpu --device cpu --short --out out/gpu      # goes through the motions where there is none

1. checks     the adapter live, merged, as a row of a mixed batch, and saved and reloaded; switched off it is the base,
              bit for bit; the losses of a run on the device against those on the CPU
2. training   `loralab train` against PEFT + transformers' Trainer (bf16, SDPA), the same examples and batch, each in a
              process of its own, in turns; what counts are ratios within a round
3. decoding   requests under adapters of their own in one batch against the base (`loralab bench serve`)

It writes gpu.json and gpu.md, which name the card and what was not found on the machine. Nothing here was ever run on a
GPU by its authors.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.train import RATE, TARGETS, Measured, trained_by_peft

RANK, ALPHA = 8, 16
CLOSE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Of the logits' largest value: how far forms of one adapter may be apart."""
LOSSES_CLOSE = 2e-3
"""Nats, between devices, over ten steps in float32."""


# -- 1. checks ----------------------------------------------------------------------------------------------------


def forms_of_an_adapter(model_name: str, device: str, dtype: str) -> dict[str, float]:
    """How far each form of one adapter is from the live one, relative to the largest logit; the base's own is exact."""
    import torch

    import loralab as ll
    from loralab.models.load import load_model

    model = load_model(model_name, dtype=dtype, device=device).model.eval()
    ids = torch.randint(5, 400, (3, 24), generator=torch.Generator().manual_seed(0)).to(device)

    def logits() -> Any:
        with torch.inference_mode():
            return model(input_ids=ids).logits.float()

    base = logits()
    adapter = ll.attach(model, ll.LoRA(rank=RANK, targets=TARGETS.split(",")), name="one")
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    live = logits()
    far: dict[str, float] = {}
    with ll.disabled(model):
        far["switched off, from the base"] = float((logits() - base).abs().max())
    with ll.rows(model, ["one", None, "one"]):
        mixed = logits()
    far["rows of a mixed batch"] = _apart(mixed[[0, 2]], live[[0, 2]])
    far["the base's row among them"] = _apart(mixed[1], base[1])
    with tempfile.TemporaryDirectory() as folder:
        ll.save(adapter, f"{folder}/one")
        ll.detach(model, "one")
        ll.load(model, f"{folder}/one", name="one")
    far["saved and reloaded"] = _apart(logits(), live)
    ll.merge(model)
    far["merged"] = _apart(logits(), live)
    ll.unmerge(model)
    far["unmerged"] = _apart(logits(), live)
    return far


def _apart(one: Any, other: Any) -> float:
    return float((one - other).abs().max() / other.abs().max())


def checks(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each check with what was found, what was allowed, and whether it held."""
    found = []
    for dtype, allowed in CLOSE.items():
        for name, far in forms_of_an_adapter(options.model, options.device, dtype).items():
            bound = 0.0 if name.startswith("switched off") else allowed
            found.append({"check": f"{name}, {dtype}", "found": far, "allowed": bound, "held": far <= bound})
    here, there = (losses_on(device, options) for device in ("cpu", options.device))
    far = max(abs(one - other) for one, other in zip(here, there, strict=True))
    held = far <= LOSSES_CLOSE
    found.append({"check": "losses of 10 steps, from the CPU's", "found": far, "allowed": LOSSES_CLOSE, "held": held})
    return found


def losses_on(device: str, options: argparse.Namespace) -> list[float]:
    """The losses of ten steps in float32."""
    with tempfile.TemporaryDirectory() as folder:
        _loralab(*_training(options, f"{folder}/run", device=device, dtype="float32", steps=10, batch_size=4))
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return [each["loss"] for each in map(json.loads, lines) if each["split"] == "train"]


# -- 2. training --------------------------------------------------------------------------------------------------


def train_ours(options: argparse.Namespace) -> Measured:
    """`loralab train`, as a user types it."""
    with tempfile.TemporaryDirectory() as folder:
        answer = _loralab(*_training(options, f"{folder}/run", dtype="bfloat16"))
    return {name: float(answer[name]) for name in ("tokens_per_second", "peak_memory_bytes", "last_loss")}


def train_peer(options: argparse.Namespace) -> Measured:
    """This file again, as PEFT and the Trainer."""
    flags = _flags({name: getattr(options, name) for name in ("model", "device", "steps", "batch_size")})
    command = [sys.executable, "-m", "benchmarks.gpu", "--peer", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: Measured = json.loads(done.stdout.splitlines()[-1])
    return answer


def run_peer(options: argparse.Namespace) -> Measured:
    """PEFT and transformers' Trainer in bf16 with SDPA and dynamic padding, on the very same token ids."""
    import torch
    from transformers import AutoModelForCausalLM

    from loralab.machine import peak_memory_bytes
    from loralab.models.load import load_model
    from loralab.models.locate import locate
    from loralab.tasks.encoding.encode import encode_examples
    from loralab.tasks.table import open_task

    tokenizer = load_model(options.model).tokenizer
    task = open_task("docstrings", None)
    encoded = encode_examples(task, task.examples("train", None), tokenizer, 512).encoded
    model = AutoModelForCausalLM.from_pretrained(
        locate(options.model), dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    found = trained_by_peft(
        model, encoded, int(tokenizer.pad_token_id or 0), RANK, ALPHA,
        per_device_train_batch_size=options.batch_size, max_steps=options.steps, learning_rate=RATE, bf16=True,
        use_cpu=options.device == "cpu",
    )  # fmt: skip
    return found | {"peak_memory_bytes": float(peak_memory_bytes(torch.device(options.device)))}


def _training(options: argparse.Namespace, out: str, **changes: Any) -> list[str]:
    flags = {
        "model": options.model, "task": "docstrings", "out": out, "rank": RANK, "alpha": ALPHA, "targets": TARGETS,
        "lr": RATE, "steps": options.steps, "batch_size": options.batch_size, "device": options.device,
        "eval_limit": 0, "samples": 0, "save_every": 0,
    }  # fmt: skip
    return ["train", *_flags(flags | changes)]


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def _loralab(*arguments: str) -> dict[str, Any]:
    """The answer of a command of ours; its own lines go to stderr."""
    command = [sys.executable, "-m", "loralab", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# -- the whole ----------------------------------------------------------------------------------------------------


def decoding(options: argparse.Namespace) -> dict[str, Any]:
    """What `loralab bench serve` measures on the device."""
    flags = {"model": options.model, "device": options.device, "registered": 0, "rounds": options.rounds}
    sizes = {"requests": 2, "new_tokens": 8, "prompt_tokens": 8} if options.short else {}
    return _loralab("bench", "serve", *_flags(flags | sizes))


def place_of(device: str) -> dict[str, Any]:
    """The card, the versions, and what was not found."""
    import torch

    absent = [f"the package {name}" for name in ("flash_attn", "liger_kernel") if find_spec(name) is None]
    there = torch.cuda.is_available()
    if not there:
        absent.append("a CUDA device")
    elif torch.cuda.device_count() < 2:
        absent.append("a second CUDA device: --processes, --shard and NCCL were not tried")
    name = torch.cuda.get_device_name(device) if there and device.startswith("cuda") else f"no card: {device}"
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "not_found": absent}


def written(found: dict[str, Any], out: Path) -> list[Path]:
    """Both files."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "gpu.json", out / "gpu.md"]
    files[0].write_text(json.dumps(found, indent=2) + "\n")
    files[1].write_text(markdown(found))
    return files


def markdown(found: dict[str, Any]) -> str:
    """For people."""
    place = found["machine"]
    lines = [f"# {place['device']}, torch {place['torch']}, CUDA {place['cuda']}", ""]
    lines += [f"Not found: {each}." for each in place["not_found"]]
    if found["short"]:
        lines += ["A short form: it shows that the command runs. Its figures mean nothing."]
    lines += ["", "| check | found | allowed | |", "|---|---|---|---|"]
    for each in found["checks"]:
        held = "held" if each["held"] else "**did not hold**"
        lines.append(f"| {each['check']} | {each['found']:.2g} | {each['allowed']:g} | {held} |")
    lines += ["", "| training, bfloat16 | tokens/s | peak memory |", "|---|---|---|"]
    for name in ("loralab", "PEFT + Trainer"):
        middle = {key: statistics.median(each[name][key] for each in found["training"]) for key in _FIGURES}
        lines.append(f"| {name} | {middle['tokens_per_second']:,.0f} | {middle['peak_memory_bytes'] / 1e6:,.0f} MB |")
    lines += ["", "| decoding, `loralab bench serve` | median | lowest | highest | asked |", "|---|---|---|---|---|"]
    for each in found["decoding"]["ratios"].values():
        lines.append(
            f"| {each['name']} | {each['median']:.2f} | {each['least']:.2f} | {each['most']:.2f} | {each['asked']:g} |"
        )
    return "\n".join(lines) + "\n"


_FIGURES = ("tokens_per_second", "peak_memory_bytes")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    flags = argparse.ArgumentParser(description="Checks, training and decoding on an accelerator.")
    flags.add_argument("--device", default="cuda")
    flags.add_argument("--model", default="smollm2-135m")
    flags.add_argument("--steps", type=int)
    flags.add_argument("--batch-size", type=int)
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--short", action="store_true", help="few steps and tokens: whether it runs at all")
    flags.add_argument("--out", type=Path, default=Path("out/gpu"))
    flags.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    given = flags.parse_args(arguments)
    usual = {"steps": 5, "batch_size": 2, "rounds": 1} if given.short else {"steps": 60, "batch_size": 16, "rounds": 3}
    for name, value in usual.items():
        setattr(given, name, getattr(given, name) or value)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """From the command line: 0, 1 where a check did not hold, 2 without the device."""
    import torch

    options = parse(arguments)
    if options.peer:
        print(json.dumps(run_peer(options)))
        return 0
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        said = f"no CUDA device was found (torch {torch.__version__}, built for CUDA {torch.version.cuda})"
        print(f"error: {said}; give --device cpu --short to see that it runs", file=sys.stderr)
        return 2
    found = {
        "machine": place_of(options.device),
        "short": options.short,
        "checks": checks(options),
        "training": [
            {"loralab": train_ours(options), "PEFT + Trainer": train_peer(options)} for _ in range(options.rounds)
        ],
        "decoding": decoding(options),
    }
    for file in written(found, options.out):
        print(file)
    return 0 if all(each["held"] for each in found["checks"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
