"""A run in the making: what the preparations so far have put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from loralab.core.adapter import Adapter
from loralab.models.load import LoadedModel
from loralab.processes.group import ALONE, Processes
from loralab.processes.sharding import Shards
from loralab.tasks.encoding.encoded import AnyEncoded
from loralab.tasks.table import Task
from loralab.training.config import TrainConfig
from loralab.training.data import TrainingData


@dataclass(frozen=True)
class EncodedExamples:
    """The training examples as the model reads them."""

    rows: Sequence[AnyEncoded]
    notes: tuple[str, ...]


@dataclass
class Draft:
    """What a run is made of; a preparation reads what earlier ones have set, and sets its own."""

    config: TrainConfig
    dtype: str
    labels: Sequence[str] = ()
    """The classes of the run that is resumed, in its order."""
    name: str = "default"
    """Of the adapter on the model."""
    processes: Processes = ALONE
    shards: Shards | None = None
    """By which the base will be cut; None where every process has all of it."""
    task: Task = field(init=False)
    eval_split: str | None = None
    """The split that `loralab eval` can measure on afterwards; not one that this run alone holds out."""
    loaded: LoadedModel = field(init=False)
    adapter: Adapter = field(init=False)
    data: TrainingData = field(init=False)
    encoded: dict[object, EncodedExamples] = field(default_factory=dict)
    """What was encoded, by what it depends on: runs on one base share it."""

    def for_run(self, config: TrainConfig, name: str) -> "Draft":
        """A draft of another run on the base and the task of this one."""
        draft = Draft(
            config,
            self.dtype,
            self.labels,
            name,
            self.processes,
            self.shards,
            eval_split=self.eval_split,
            encoded=self.encoded,
        )
        draft.task, draft.loaded = self.task, self.loaded
        return draft
