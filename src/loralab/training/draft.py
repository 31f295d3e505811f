"""A run in the making: what the preparations so far have put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from loralab.core.adapter import Adapter
from loralab.models.load import LoadedModel
from loralab.tasks.table import Task
from loralab.training.config import TrainConfig
from loralab.training.data import TrainingData


@dataclass
class Draft:
    """What a run is made of; a preparation reads what earlier ones have set, and sets its own."""

    config: TrainConfig
    dtype: str
    labels: Sequence[str] = ()
    """The classes of the run that is resumed, in its order."""
    task: Task = field(init=False)
    eval_split: str | None = None
    """The split that `loralab eval` can measure on afterwards; not one that this run alone holds out."""
    loaded: LoadedModel = field(init=False)
    adapter: Adapter = field(init=False)
    data: TrainingData = field(init=False)
