"""All trials of a tuning in this process, side by side on one base."""

from collections.abc import Generator
from dataclasses import dataclass

from loralab.experiments.tuning.climb import climbing
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.course import Course
from loralab.experiments.tuning.folder import TuneState
from loralab.experiments.tuning.start import state_at_start
from loralab.machine import peak_memory_bytes
from loralab.training.interrupt import Interruption
from loralab.training.prepare import Ground
from loralab.training.together.progress import SharedProgress


@dataclass
class TuningHere:
    """Who trains them."""

    config: TuneConfig
    ground: Ground

    def state_at_start(self, progress: SharedProgress, interruption: Interruption, started: float) -> TuneState:
        """What is fixed before the first trial; raises what `start.state_at_start` raises."""
        return state_at_start(self.config, self.ground, progress, started)

    def climb(self, course: Course) -> Generator[int]:
        """Take every trial that is alive to each rung in turn, and give the rung when they are there; those that are
        stopped before the next is asked for go no further."""
        with climbing(
            self.config, course.state, course.alive, self.ground, course.progress, course.interruption,
            course.recorded(),
        ) as climb:  # fmt: skip
            for rung in course.rungs:
                climb.to(rung)
                yield rung
                climb.leave(name for name in climb.members if name in course.state.stopped)
            climb.finish()

    @property
    def peak_memory_bytes(self) -> int:
        """Of this process so far."""
        return peak_memory_bytes(self.ground.draft.loaded.model.device)
