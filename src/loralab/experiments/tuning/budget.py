"""How many steps a tuning has: as many as were asked for, or as fit into its minutes."""

import math
from collections.abc import Callable, Sequence

from loralab.errors import SpecError
from loralab.experiments.tuning.config import TuneConfig
from loralab.experiments.tuning.halving import SHORTEST_RUNG, longest_within, shortest, steps_and_looks
from loralab.experiments.tuning.probe import Probe
from loralab.training.config import DEFAULT_EPOCHS


def is_given(config: TuneConfig) -> bool:
    """Whether the length was asked for, so that nothing needs to be measured."""
    return config.steps is not None or config.epochs is not None


def choose_steps(
    config: TuneConfig, probes: Sequence[Probe], settings: int, look: float, spent: float, workers: int = 1
) -> tuple[int, list[str]]:
    """(steps of the best trials, what is to be said of it). `look` is what a judgement takes in seconds, `spent` how
    many of the budget are gone, `workers` how many processes share the trials out.

    Raises SpecError, saying what would fit, where that is too short for a judgement.
    """
    per_epoch = probes[0].steps_per_epoch
    least = shortest(settings, config.halvings)
    if config.steps is not None or config.epochs is not None:
        total = config.steps if config.steps is not None else max(1, math.ceil((config.epochs or 0) * per_epoch))
        if total < least and settings > 1:
            raise SpecError(
                f"{settings} settings with {config.halvings} halvings need at least {least} steps, so that the first "
                f"judgement comes after {SHORTEST_RUNG}, and there are {total}; give more steps or fewer halvings"
            )
        return total, []
    seeds = len(config.seeds)
    step = seeds * sum(probe.seconds for probe in probes) / len(probes)
    left = 60 * config.budget_minutes - spent
    share = _share(seeds, workers)
    total = longest_within(left, step, seeds * look, settings, config.halvings, share)
    if total < least:
        raise SpecError(_too_small(config, settings, step, seeds * look, spent, least, share))
    enough = max(least, math.ceil(DEFAULT_EPOCHS * per_epoch))
    said = [f"a step takes {step / seeds:.2f} s and a judgement {look:.1f} s here"]
    if total > enough:
        said.append(
            f"the budget would do for {total} steps; {enough} are {enough / per_epoch:.3g} epochs, more only with "
            "--epochs or --steps"
        )
    return min(total, enough), said


def _share(seeds: int, workers: int) -> Callable[[int], float]:
    """How many settings' worth of trials the process has that has the most of them."""
    return lambda settings: math.ceil(settings * seeds / workers) / seeds


def _too_small(
    config: TuneConfig,
    settings: int,
    step: float,
    look: float,
    spent: float,
    least: int,
    share: Callable[[int], float],
) -> str:
    """What is asked, what it would take, and what would fit."""
    steps, looks = steps_and_looks(least, settings, config.halvings, share)
    minutes = math.ceil((steps * step + looks * look + spent) / 60 * 10) / 10
    left = 60 * config.budget_minutes - spent
    fitting = [
        n
        for n in range(1, settings)
        if longest_within(left, step, look, n, config.halvings, share) >= shortest(n, config.halvings)
    ]
    fewer = f"; {max(fitting)} settings would fit" if fitting else ""
    return (
        f"budget_minutes {config.budget_minutes:g} is too small for one rung of {settings} settings with "
        f"{len(config.seeds)} seeds: {minutes:g} minutes would do{fewer}"
    )
