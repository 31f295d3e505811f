"""Many requests at once, each with its own adapter, beside the engine's own base, transformers' `generate`, `ll.rows`
and PEFT's `adapter_names`: `loralab bench serve`, with the settings of `docs/results/serving.md`.

    python -m benchmarks.serve --rounds 5 --threads 2 --out out/serve

Flags are those of `loralab bench serve`. Contenders share one process and one model and take turns, round after round,
so that whatever else the machine does hits all of them; what counts are the ratios within a round.
"""

import sys
from collections.abc import Sequence

from loralab.cli.main import main as loralab

SETTINGS = ("--model", "smollm2-135m", "--requests", "16", "--prompt-tokens", "32", "--new-tokens", "64")


def main(arguments: Sequence[str] = ()) -> int:
    """Measure and print; what `loralab` exits with."""
    return loralab(["bench", "serve", *SETTINGS, *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
