"""What is fixed before the first trial: that all of it can be, the scores of the base, and how many steps there are."""

from time import perf_counter

from loralab.evaluation.evaluate import evaluate
from loralab.experiments.tuning.budget import choose_steps, is_given
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.folder import TuneState
from loralab.experiments.tuning.grid import settings_of
from loralab.experiments.tuning.probe import probe_all
from loralab.training.chance import RandomStream
from loralab.training.held_out import held_out_split
from loralab.training.measure import measured
from loralab.training.prepare import Ground
from loralab.training.together.progress import SharedProgress


def state_at_start(
    config: TuneConfig, ground: Ground, progress: SharedProgress, started: float, workers: int = 1
) -> TuneState:
    """Of a tuning that began at `started` and that so many processes will work at.

    Raises SpecError for settings that the model cannot take or a budget that is too small.
    """
    settings = settings_of(config)
    with progress.doing("trying every rank and set of targets"):
        probes = probe_all(config, ground, settings, measure=not is_given(config))
    with progress.doing("measuring the base"):
        looked = perf_counter()
        base = _scores_of_base(config, ground)
        look = perf_counter() - looked
    steps, said = choose_steps(config, probes, len(settings), look, perf_counter() - started, workers)
    dtype = str(ground.draft.loaded.dtype).removeprefix("torch.")
    return TuneState(steps, base, [*ground.notes, *said], dtype=dtype)


def _scores_of_base(config: TuneConfig, ground: Ground) -> dict[str, float]:
    loaded, task = ground.draft.loaded, ground.draft.task
    split = held_out_split(task)
    assert split is not None, "a task that choices are made on has something held out"
    with RandomStream().flowing():
        result = evaluate(
            loaded.model, loaded.processor, task, split,
            limit=config.eval_limit, batch_size=config.batch_size, max_length=config.max_length,
        )  # fmt: skip
    return measured(result)
