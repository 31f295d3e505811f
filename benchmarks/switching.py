"""What it costs to change the adapter in a program: activate, load, rows, combine, merge.

    python -m benchmarks.switching --rounds 5

Medians of interleaved rounds in one process, with SmolLM2-135M in float32 and adapters of rank 8 on q, k, v and o.
`rows` and `activate` are the call alone, without the pass of the model that follows. Prints one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def measured(model_name: str, rounds: int) -> dict[str, float]:
    """Milliseconds by what was done."""
    import torch

    import loralab as ll
    from loralab.models.load import load_model

    model = load_model(model_name, dtype="float32").model.eval()
    times: dict[str, list[float]] = {}

    def timed(name: str, do: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        answer = do()
        times.setdefault(name, []).append(1000 * (time.perf_counter() - begun))
        return answer

    def entered(names: Sequence[str | None]) -> None:
        with ll.rows(model, names):
            pass

    with tempfile.TemporaryDirectory() as root:
        for name in ("a", "b"):
            adapter = ll.attach(model, ll.LoRA(rank=8, targets=TARGETS), name=name)
            for parameter in adapter.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
            ll.save(adapter, Path(root) / name)
        ll.detach(model)
        timed("load, the first", lambda: ll.load(model, Path(root) / "a", "a"))
        for _ in range(rounds):
            timed("load, a further one", lambda: ll.load(model, Path(root) / "b", "b"))
            timed("activate", lambda: ll.activate(model, "a"))
            timed("rows, 16 of them", lambda: entered(["a", None, "b", "a"] * 4))
            timed("combine, exact", lambda: ll.combine(model, {"a": 0.7, "b": 0.3}, name="mix"))
            ll.detach(model, "mix")
            ll.activate(model, "a")
            timed("merge", lambda: ll.merge(model))
            timed("unmerge", lambda: ll.unmerge(model))
            ll.detach(model, "b")
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


def main() -> int:
    """From the command line."""
    flags = argparse.ArgumentParser(description="What it costs to change the adapter in a program.")
    flags.add_argument("--model", default="smollm2-135m")
    flags.add_argument("--rounds", type=int, default=5)
    given = flags.parse_args()
    print(json.dumps({"unit": "milliseconds", **measured(given.model, given.rounds)}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
