"""A tuning under way: its settings and rungs, where it stands, and who hears of it."""

from collections.abc import Callable
from dataclasses import dataclass

from loralab.experiments.tuning.climb import Record, is_done
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.folder import TuneFolder, TuneState
from loralab.experiments.tuning.grid import TuneTrial, settings_of, trials_of
from loralab.experiments.tuning.halving import rungs_of
from loralab.training.interrupt import Interruption
from loralab.training.together.progress import SharedProgress


@dataclass
class Course:
    """What those who train its trials have to know."""

    config: TuneConfig
    folder: TuneFolder
    state: TuneState
    progress: SharedProgress
    interruption: Interruption
    record: Callable[[], None]
    """Writes the state down."""

    @property
    def trials(self) -> list[TuneTrial]:
        """All of them, also those that were stopped."""
        return trials_of(self.config)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which settings are judged."""
        return rungs_of(self.state.steps, len(settings_of(self.config)), self.config.halvings)

    @property
    def alive(self) -> list[TuneTrial]:
        """Trials that were not stopped, and have no result yet."""
        return [each for each in self.trials if each.name not in self.state.stopped and not self.is_done(each)]

    def is_done(self, trial: TuneTrial) -> bool:
        """Whether the trial came to its end and left its result."""
        return is_done(self.config, self.state, trial)

    def recorded(self) -> Record:
        """For those who measure a trial: all of the state is written."""
        return lambda trial: self.record()

    def note(self, sentence: str) -> None:
        """Said, and kept with the results."""
        self.progress.say(sentence)
        self.state.note(sentence)
