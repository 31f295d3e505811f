"""A training step of each family, beside PEFT and beside what the processor's matrix products could do.

    python -m benchmarks.families                              # every row: hours on two cores
    python -m benchmarks.families --short                      # one length of three families
    python -m benchmarks.families --models gpt2 --lengths 256 --targets q,v --json gpt2.json

A step is forward, loss, backward, clipping and AdamW on a batch of random tokens of one length, half of them targets of
a language model. Each contender runs in a process of its own, so that its peak memory is its own; they take turns, and
what counts are ratios within a round. The base has the precision that `--dtype auto` chooses here; PEFT trains as the
Trainer does, float32 weights, under autocast where that precision is bfloat16 (`bf16=True`). The rate is that of this
model's own dense shapes at this batch, forward and backward, measured in the same process just before. The share is
what the step cannot do without (4 operations for a weight and token, 12 for a pair of positions and unit of width, 4
for a weight of the head and target), over its time and that rate: work that is done twice counts once.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rate import dense_shapes, product_rate, weights
from benchmarks.train import machine

RANK, ALPHA, RATE = 8, 16, 2e-4
TARGETS = ("q,v", "all-linear")
LENGTHS = (64, 256, 1024)
SHORT = {"models": ("smollm2-135m", "minilm-l6", "gemma3-270m"), "lengths": (64,), "targets": ("q,v",), "tokens": 1024}
"""What `--short` measures, once."""
CONTENDERS = ("ours", "peft")
UNCOUNTED = 1


@dataclass(frozen=True)
class Row:
    """A model of a published size with random weights, all of its layers or some."""

    model_type: str
    kind: str
    values: dict[str, Any]
    longest: int = 1024


def _decoder(model_type: str, layers: int, width: int, inner: int, heads: int, groups: int, **others: Any) -> Row:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": inner}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    attention = {"num_attention_heads": heads, "num_key_value_heads": groups}
    return Row(model_type, "causal-lm", sizes | attention | ends | {"tie_word_embeddings": True} | others)


def _encoder(model_type: str, layers: int, width: int, heads: int, longest: int = 512, **others: Any) -> Row:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    return Row(model_type, "sequence-classification", sizes | {"num_attention_heads": heads} | others, longest)


ROWS = {
    "smollm2-135m": _decoder("llama", 30, 576, 1536, 9, 3, vocab_size=49152),
    "minilm-l6": _encoder("bert", 6, 384, 12),
    "gpt2": Row("gpt2", "causal-lm", {}),
    "qwen3-0.6b-8-layers": _decoder("qwen3", 8, 1024, 3072, 16, 8, head_dim=128, vocab_size=151936),
    "gemma3-270m": _decoder("gemma3_text", 18, 640, 2048, 4, 1, head_dim=256, vocab_size=262144),
    "deberta-v3-base-6-layers": _encoder(
        "deberta-v2", 6, 768, 12, vocab_size=128100, relative_attention=True, position_buckets=256, type_vocab_size=0,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
    ),
    "t5-small": Row("t5", "seq2seq-lm", {"decoder_start_token_id": 0}),
    "vit-base-6-layers": Row("vit", "image-classification", {"num_hidden_layers": 6}, longest=0),
}  # fmt: skip
"""Name -> model. Images have the length that their size gives them."""


# -- one contender, in its own process ------------------------------------------------------------------------


def run(contender: str, name: str, targets: str, length: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step (the median), bytes at the peak, and the share of the product rate."""
    import torch

    from loralab.models.load import config_of_type, model_from_config
    from loralab.models.precision import DTYPES, use_fast_float32

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    row, dtype = ROWS[name], DTYPES[options.dtype]
    config = config_of_type(row.model_type, row.values | {"dtype": dtype if contender == "ours" else torch.float32})
    model: Any = model_from_config(name, config, row.kind).requires_grad_(False)
    batch = _batch(model, row, length, options.tokens)
    use_fast_float32()
    rate = product_rate(dense_shapes(model), _tokens(model, batch), dtype)
    needed = _needed(model, batch)
    seconds = (_ours if contender == "ours" else _peft)(model, targets, batch, options.steps, dtype)
    step = statistics.median(seconds[UNCOUNTED:])
    return {
        "seconds": step,
        "tokens_per_second": _tokens(model, batch) / step,
        "peak_memory_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
        "product_rate": rate,
        "share": needed / step / rate,
    }


def _batch(model: Any, row: Row, length: int, tokens: int) -> dict[str, Any]:
    """Random tokens (or pixels), all real."""
    import torch

    size = max(1, tokens // (length or 197))
    if row.kind == "image-classification":
        side = int(model.config.image_size)
        return {"pixel_values": torch.randn(size, 3, side, side), "labels": torch.zeros(size, dtype=torch.long)}
    ids = torch.randint(3, int(model.config.get_text_config().vocab_size), (size, length))
    if row.kind == "sequence-classification":
        return {"input_ids": ids, "labels": torch.zeros(size, dtype=torch.long)}
    labels = ids.clone()
    labels[:, : length // 2] = -100
    return {"input_ids": ids, "labels": labels[:, length // 2 :].contiguous() if row.kind == "seq2seq-lm" else labels}


def _ours(model: Any, targets: str, batch: dict[str, Any], steps: int, dtype: Any) -> list[float]:
    from loralab.core.attach import attach
    from loralab.methods.lora import LoRA
    from loralab.models.fast.head import target_loss_sum
    from loralab.models.load import LoadedModel
    from loralab.training.base import made_fast

    adapter = attach(model, LoRA(rank=RANK, alpha=ALPHA, targets=targets))
    language = "pixel_values" not in batch and batch["labels"].ndim == 2

    batch = {name: each.to(dtype) if each.is_floating_point() else each for name, each in batch.items()}

    def loss() -> Any:
        if not language:
            return model(**batch).loss
        total, count = target_loss_sum(model, batch["input_ids"], None, batch["labels"])
        return total / count

    with made_fast(LoadedModel(model, Any, "random", dtype, (), ())):  # type: ignore[arg-type]
        return _timed(model, loss, list(adapter.parameters()), steps)


def _peft(model: Any, targets: str, batch: dict[str, Any], steps: int, dtype: Any) -> list[float]:
    import torch
    from peft import LoraConfig, get_peft_model

    from loralab.core.attach import attach, detach
    from loralab.methods.lora import LoRA

    adapter = attach(model, LoRA(rank=RANK, targets=targets))
    paths = list(adapter.matched)
    detach(model)
    adapted: Any = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=paths))
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]

    def loss() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return adapted(**batch).loss

    return _timed(adapted, loss, trained, steps)


def _timed(model: Any, loss: Callable[[], Any], trained: Sequence[Any], steps: int) -> list[float]:
    """Seconds of each step."""
    import torch

    optimizer, seconds = torch.optim.AdamW(trained, lr=RATE), []
    model.train()
    for _ in range(steps):
        started = time.perf_counter()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    return seconds


# -- what there is to do, and how fast the processor could ----------------------------------------------------


def _tokens(model: Any, batch: dict[str, Any]) -> int:
    """Positions in the batch."""
    if "input_ids" in batch:
        return int(batch["input_ids"].numel())
    side = int(model.config.image_size) // int(model.config.patch_size)
    return len(batch["pixel_values"]) * (side**2 + 1)


def _halves(model: Any, batch: dict[str, Any]) -> list[tuple[Any, int]]:
    """The model and its positions; of an encoder-decoder each half with its own."""
    if not model.config.is_encoder_decoder:
        return [(model, _tokens(model, batch))]
    return [(model.get_encoder(), _tokens(model, batch)), (model.get_decoder(), batch["labels"].numel())]


def _needed(model: Any, batch: dict[str, Any]) -> float:
    """Operations that a step with adapters from the first block on cannot do without."""
    config, tokens = model.config.get_text_config(), _tokens(model, batch)
    size = len(next(iter(batch.values())))
    width = int(getattr(config, "num_attention_heads", 1)) * int(getattr(config, "head_dim", 0) or 0)
    pairs = 12 * int(config.num_hidden_layers) * (tokens // size) ** 2 * size * (width or int(config.hidden_size))
    body = 4 * sum(count * weights(dense_shapes(half)) for half, count in _halves(model, batch))
    head = model.get_output_embeddings()
    targets = int((batch["labels"] != -100).sum())
    return float(body + pairs + (0 if head is None else 4 * targets * head.weight.numel()))


# -- all of them ----------------------------------------------------------------------------------------------


def measure(contender: str, options: argparse.Namespace, name: str, targets: str, length: int) -> dict[str, float]:
    """Run one contender in a fresh process."""
    words = {"contender": contender, "models": name, "targets": targets, "lengths": length}
    words |= {"steps": options.steps, "threads": options.threads, "tokens": options.tokens}
    words |= {"dtype": options.dtype}
    pairs = [text for flag, value in words.items() for text in (f"--{flag}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-m", "benchmarks.families", *pairs]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def cells(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Model, targets and length of every row; of images and short contexts fewer."""
    lengths = {name: [each for each in options.lengths if each <= ROWS[name].longest] or [0] for name in options.models}
    return [
        (name, targets, length) for name in options.models for targets in options.targets for length in lengths[name]
    ]


def compared(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Medians over the rounds: how much faster, which part of the memory, and the share of the product rate."""
    ours, peft = ([each[name] for each in rounds] for name in CONTENDERS)
    return {
        "speed": statistics.median(p["seconds"] / o["seconds"] for o, p in zip(ours, peft, strict=True)),
        "memory": statistics.median(
            o["peak_memory_bytes"] / p["peak_memory_bytes"] for o, p in zip(ours, peft, strict=True)
        ),
        "share": statistics.median(o["share"] for o in ours),
        "seconds": statistics.median(o["seconds"] for o in ours),
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--short", action="store_true", help="one length of three families")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps a run, the first not counted")
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, unless one example has more")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the base")
    parser.add_argument("--json", help="also write everything measured to this file")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.short:
        vars(options).update(SHORT, rounds=1)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    options = parse(arguments)
    if options.contender:
        (name,), (targets,), (length,) = options.models, options.targets, options.lengths
        print(json.dumps(run(options.contender, name, targets, length, options)))
        return 0
    place, rows = machine(options.threads, options.dtype), []
    options.dtype = place["base"]
    print(
        f"{place['processor']}, {place['threads']} threads, torch {place['torch']}, {place['base']}, "
        f"load {place['load']:.1f}"
    )
    print(f"{'':26}{'targets':>12}{'tokens':>8}{'s a step':>10}{'speed':>8}{'memory':>8}{'share':>8}")
    for name, targets, length in cells(options):
        found = [
            {each: measure(each, options, name, targets, length) for each in CONTENDERS} for _ in range(options.rounds)
        ]
        row = {"model": name, "targets": targets, "length": length} | compared(found) | {"rounds": found}
        rows.append(row)
        figures = f"{row['seconds']:10.2f}{row['speed']:7.2f}×{row['memory']:7.2f}×{row['share']:8.2f}"
        print(f"{name:26}{targets:>12}{length or '':>8}{figures}", flush=True)
        if options.json:
            content = {"machine": place, "rows": rows}
            Path(options.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
