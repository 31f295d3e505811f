"""Every rank and set of targets once on the base before the first trial: whether it fits, and how long a step takes.

Nothing that is done here moves a random generator or stays on the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from loralab.core.attach import activate, detach
from loralab.errors import SpecError, TargetError, first_line
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.grid import TunedSetting, TuneTrial
from loralab.training.base import made_fast
from loralab.training.chance import RandomStream
from loralab.training.prepare import Ground, Prepared, prepare_on

MEASURED_STEPS = 3
NAME = "probe"


@dataclass(frozen=True)
class Probe:
    """One rank on one set of targets."""

    matched: frozenset[str]
    seconds: float
    """Of a step of average length."""
    steps_per_epoch: int


def probe_all(config: TuneConfig, ground: Ground, settings: Sequence[TunedSetting], *, measure: bool) -> list[Probe]:
    """One for each rank and set of targets.

    Raises one SpecError that lists every combination that the model cannot take, and sets that name the same modules.
    """
    distinct = list({(each.rank, each.targets): each for each in settings}.values())
    probes, problems, places = [], [], dict[tuple[int, frozenset[str]], TunedSetting]()
    for setting in distinct:
        try:
            probe = _probe(config, ground, setting, measure=measure)
        except (SpecError, TargetError) as problem:
            problems.append(f"rank {setting.rank} on {setting.targets or 'the default targets'}: {first_line(problem)}")
            continue
        twin = places.setdefault((setting.rank, probe.matched), setting)
        if twin is not setting:
            problems.append(f"target_sets {twin.targets} and {setting.targets} name the same modules: give one of them")
        probes.append(probe)
    if problems:
        raise SpecError("invalid tuning: " + "; ".join(dict.fromkeys(problems)))
    return probes


def _probe(config: TuneConfig, ground: Ground, setting: TunedSetting, *, measure: bool) -> Probe:
    model = ground.draft.loaded.model
    with RandomStream().flowing():
        prepared = prepare_on(ground, TuneTrial(NAME, setting, config.seeds[0]).training(config, 1), NAME)
        try:
            data = prepared.trainee.data
            seconds = _seconds_a_step(config, prepared) if measure else 0.0
            return Probe(frozenset(prepared.trainee.adapter.matched), seconds, data.steps_per_epoch)
        finally:
            detach(model, NAME)


def _seconds_a_step(config: TuneConfig, prepared: Prepared) -> float:
    """Forward and backward passes of the first steps but the very first, as a step of average length would take."""
    trainee = prepared.trainee
    activate(trainee.model, NAME)
    trainee.model.train()
    tokens, seconds = 0, 0.0
    with made_fast(prepared.loaded, attention=config.attention):
        for number in range(1, min(MEASURED_STEPS, trainee.data.steps_per_epoch) + 1):
            data = trainee.data.step(number)
            started = perf_counter()
            trainee.objective.backward(data)
            if number > 1 or trainee.data.steps_per_epoch == 1:
                tokens, seconds = tokens + data.tokens, seconds + perf_counter() - started
    trainee.model.train(False)
    average = sum(each.tokens for each in trainee.data.encoded) / trainee.data.steps_per_epoch
    return seconds * average / max(1, tokens)
