"""Decoding as `generate` and `eval --generate` do it against transformers' `generate`, which they used before.

    python -m benchmarks.decoding --adapter out/e2e --rounds 3

Two workloads with SmolLM2-135M: the inputs of E2E's test set by a beam search with the paper's settings (10 beams,
length penalty 0.9, no 4-gram twice, at most 64 new tokens) under an adapter that was trained on E2E, and 64 prompts of
different lengths continued greedily. Both ways run in one process and take turns, so that whatever else the machine
does hits both; what counts are the ratios within a round, and how many outputs are the same, token by token. Without
`--adapter` the base answers; it never ends an output early, as a trained one does.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.train import machine
from loralab.formats.load import load
from loralab.generation.config import GenerationConfig
from loralab.generation.continuous import generate_continuously
from loralab.generation.ends import NO_MORE
from loralab.generation.generate import end_ids
from loralab.generation.plain import generate_plainly
from loralab.models.load import LoadedModel, load_model
from loralab.tasks.encoding.encode import encode_prompts
from loralab.tasks.table import open_task

MODEL, BAR = "smollm2-135m", 2.0
PAPER = GenerationConfig(64, beams=10, length_penalty=0.9, no_repeat_ngram=4)
SHORTEST, LONGEST = 8, 96
"""Tokens of the prompts that are continued greedily."""

Ids = list[list[int]]


def contenders(loaded: LoadedModel, prompts: Ids, config: GenerationConfig) -> dict[str, Callable[[], Ids]]:
    """Each way to answer these prompts."""
    model, tokenizer = loaded.model, loaded.tokenizer
    ends = end_ids(model, tokenizer)
    pad_id = int(tokenizer.pad_token_id or 0)
    return {
        "ours": lambda: generate_continuously(model, prompts, config, tokenizer, NO_MORE, ends),
        "transformers": lambda: generate_plainly(model, prompts, config, tokenizer, NO_MORE, ends, pad_id),
    }


def measure(name: str, ways: dict[str, Callable[[], Ids]], rounds: int) -> dict[str, Any]:
    """Seconds of each way in each round, the ratios, and how many outputs agree."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, Ids] = {}
    for number in range(rounds):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            begun = time.perf_counter()
            found[way] = ways[way]()
            seconds[way].append(time.perf_counter() - begun)
            print(f"{name}, {way}: {seconds[way][-1]:.1f} s", file=sys.stderr, flush=True)
    ours, theirs = found["ours"], found["transformers"]
    ratios = [other / own for own, other in zip(seconds["ours"], seconds["transformers"], strict=True)]
    return {
        "seconds": seconds,
        "ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "outputs": len(ours),
        "same": sum(one == other for one, other in zip(ours, theirs, strict=True)),
        "new_tokens": sum(map(len, ours)),
    }


def e2e_prompts(loaded: LoadedModel, data: str, count: int) -> tuple[Ids, int]:
    """Of inputs spread evenly over the test set, and how many that has."""
    examples = open_task("e2e", data).examples("test", None)
    chosen = [examples[place * len(examples) // count] for place in range(count)]
    return encode_prompts(chosen, loaded.tokenizer, 512, encoder_decoder=False), len(examples)  # type: ignore[arg-type]


def prompts_of_lengths(loaded: LoadedModel, count: int) -> Ids:
    """Beginnings of functions of Python's own library, from short to long."""
    examples = open_task("docstrings", None).examples("test", count)
    whole = encode_prompts(examples, loaded.tokenizer, 512, encoder_decoder=False)  # type: ignore[arg-type]
    lengths = [SHORTEST + (LONGEST - SHORTEST) * place // max(1, count - 1) for place in range(count)]
    return [ids[:length] for ids, length in zip(whole, lengths, strict=True)]


def show(found: dict[str, dict[str, Any]]) -> None:
    """The table."""
    print(f"{'':8}{'transformers':>14}{'ours':>10}   ratio (median, range)     same outputs")
    for name, each in found.items():
        ratio, seconds = each["ratio"], {way: statistics.median(all_) for way, all_ in each["seconds"].items()}
        print(
            f"{name:8}{seconds['transformers']:12.1f} s{seconds['ours']:8.1f} s   {ratio['median']:.2f}× "
            f"({ratio['lowest']:.2f}–{ratio['highest']:.2f})   {each['same']} of {each['outputs']}"
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(here.parent / "shared" / "data" / "e2e"), help="folder of the E2E CSVs")
    parser.add_argument("--adapter", help="folder of an adapter that was trained on E2E")
    parser.add_argument("--inputs", type=int, default=16, help="of E2E's 630, spread evenly")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64, help="of each greedy answer, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", help="also write everything measured to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 1 if a ratio is below the bar, or an output differs."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    loaded = load_model(MODEL, kind="generation", dtype=options.dtype)
    found: dict[str, dict[str, Any]] = {}
    if options.prompts:
        prompts = prompts_of_lengths(loaded, options.prompts)
        ways = contenders(loaded, prompts, GenerationConfig(options.new_tokens))
        found["greedy"] = measure("greedy", ways, options.rounds)
    if options.adapter:
        load(loaded.model, options.adapter, "e2e")
    if options.inputs:
        prompts, _ = e2e_prompts(loaded, options.data, options.inputs)
        found["beams"] = measure("beams", contenders(loaded, prompts, PAPER), options.rounds)
    place = machine(options.threads) | {"base": str(loaded.dtype).removeprefix("torch.")}
    print(f"{place['processor']}, {place['threads']} threads, torch {place['torch']}; base in {place['base']}")
    show(found)
    if options.json:
        content = {"machine": place, "workloads": found}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    met = all(each["ratio"]["median"] >= BAR and each["same"] == each["outputs"] for each in found.values())
    print(f"bar (≥ {BAR:g}×, the same outputs): {'met' if met else 'NOT met'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
