"""Run as a program in a process of its own: train four runs side by side on one base for an epoch, as told by JSON,
then print what was measured and predicted.
"""

import json
import sys
import tempfile
from pathlib import Path

from peak_of_training import peak_bytes

from loralab.training.base import made_fast
from loralab.training.config import TrainConfig
from loralab.training.interrupt import interruptible
from loralab.training.together.progress import SharedProgress
from loralab.training.together.side_by_side import SideBySide
from loralab.training.together.train import ground_of

RUNS = 4


def main(settings: str) -> None:
    with tempfile.TemporaryDirectory() as folder, interruptible() as interruption, SharedProgress() as progress:
        configs = [
            TrainConfig(
                **json.loads(settings), lr=10 ** -(2 + n), epochs=1, eval_limit=0, out=str(Path(folder, str(n)))
            )
            for n in range(RUNS)
        ]
        together = SideBySide(ground_of(configs), interruption, progress.say)
        for config in configs:
            together.add(config, Path(config.out).name, progress.lane(config.out))
        predicted = together.forecast()
        assert predicted is not None
        with made_fast(together.ground.draft.loaded):
            together.begin()
            together.advance()
        measured = peak_bytes()
        together.close()
    print(json.dumps({"measured": measured, "predicted": predicted.total}))


if __name__ == "__main__":
    main(sys.argv[1])
