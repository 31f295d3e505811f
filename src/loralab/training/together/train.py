"""`train_together`: several runs on one base in one process, from their configurations to adapters on disk."""

import shlex
from collections.abc import Sequence

from loralab.errors import SpecError
from loralab.machine import keep_few_kernels
from loralab.training.base import made_fast
from loralab.training.config import TrainConfig
from loralab.training.folder import RunFolder, claim
from loralab.training.interrupt import Asked, RunStopped, interruptible
from loralab.training.log.boards import require_boards
from loralab.training.prepare import Ground, lay_ground
from loralab.training.run import TrainResult
from loralab.training.together.progress import SharedProgress
from loralab.training.together.sharing import check_sharing
from loralab.training.together.side_by_side import Failure, SideBySide


def train_together(configs: Sequence[TrainConfig]) -> list[TrainResult | Failure]:
    """Train one adapter for each configuration, side by side over one frozen base, each into its own folder.

    Every run is the one that `train` makes of its configuration: its own optimizer, schedule, seed, order of the data,
    dropout and checkpoints. What it comes to stands in its place: the result, or for a run that could not go on (one
    that diverged) the error, which the others do not notice.

    Raises SpecError for configurations that cannot share a base, `RunStopped` where all were asked to stop, and
    whatever `train` raises before its first step.
    """
    check_sharing(configs)
    for config in configs:
        config.validate()
        require_boards(config)
        claim(config)
    keep_few_kernels()
    ground = ground_of(configs)
    with interruptible() as interruption, SharedProgress() as progress:
        together = SideBySide(ground, interruption, progress.say)
        try:
            for number, config in enumerate(configs, 1):
                together.add(config, f"run-{number}", progress.lane(f"run {number}"))
            with made_fast(ground.draft.loaded, attention=configs[0].attention) as kernels:
                together.begin()
                together.advance()
                for member in together.running:
                    together.finish(member, kernels)
        except Asked as asked:
            together.stop(asked.number)
            raise RunStopped(_where_it_stands(configs), asked.number) from None
        finally:
            together.close()
    return [_came_of(member.result, member.failure) for member in together.members]


def ground_of(configs: Sequence[TrainConfig]) -> Ground:
    """The base and the task that these runs share, as the first that is resumed had them."""
    before = next((RunFolder.of(config).read_record() for config in configs if config.resume), {})
    return lay_ground(configs[0], before.get("dtype", configs[0].dtype), before.get("labels", ()))


def _came_of(result: TrainResult | None, failure: Failure | None) -> TrainResult | Failure:
    came = failure if result is None else result
    if came is None:
        raise SpecError("a run was left before it ended")
    return came


def _where_it_stands(configs: Sequence[TrainConfig]) -> str:
    folders = ", ".join(shlex.quote(config.out) for config in configs)
    return f"stopped: where each run stands is in {folders}; give all of them resume to go on"
