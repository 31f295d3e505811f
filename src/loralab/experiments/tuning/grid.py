"""The settings of a tuning, and its trials: each setting with each seed. Loads no torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from loralab.experiments.tuning.config import TuneConfig
from loralab.training.config import TrainConfig

FULL_FINE_TUNING = 5e-5
"""A usual learning rate of full fine-tuning."""
TIMES = 10.0
"""LoRA's best rate over that of full fine-tuning, of whatever rank with α/r ("LoRA Without Regret", J. Schulman et al.,
Thinking Machines 2025)."""
AROUND = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Two decades, so that the best rate seldom lies at an end."""

_UNFIT = re.compile(r"[^A-Za-z0-9_.]+")
_LONGEST_TARGETS = 40


@dataclass(frozen=True)
class TunedSetting:
    """What is tuned."""

    rank: int
    lr: float
    targets: str | None

    @property
    def label(self) -> str:
        """For people: `r=4 · q,v · 1.5e-03`."""
        return f"r={self.rank} · {self.targets or 'q,v of the family'} · {self.lr:g}"


@dataclass(frozen=True)
class TuneTrial:
    """One setting with one seed."""

    name: str
    """Of its adapter and its folder: letters that neither minds."""
    setting: TunedSetting
    seed: int

    def training(self, config: TuneConfig, steps: int, **changes: object) -> TrainConfig:
        """Its run: `steps` steps, measured by choice after the last."""
        setting = self.setting
        return config.training(
            rank=setting.rank, lr=setting.lr, targets=setting.targets, seed=self.seed,
            steps=steps, epochs=None, eval_every=steps, out=str(Path(config.out) / "trials" / self.name), **changes,
        )  # fmt: skip


def rates(config: TuneConfig) -> tuple[float, ...]:
    """As given, or five around the rule of thumb."""
    given = config.given_lrs
    return tuple(float(f"{FULL_FINE_TUNING * TIMES * each:.2g}") for each in AROUND) if given is None else given


def settings_of(config: TuneConfig) -> list[TunedSetting]:
    """Every setting; the rate changes first."""
    return [
        TunedSetting(rank, rate, targets)
        for targets in config.targets_to_try
        for rank in config.ranks_to_try
        for rate in rates(config)
    ]


def trials_of(config: TuneConfig) -> list[TuneTrial]:
    """Every setting with every seed."""
    trials: list[TuneTrial] = []
    taken: dict[str, int] = {}
    for setting in settings_of(config):
        for seed in config.seeds:
            name = _readable(setting, seed)
            taken[name] = taken.get(name, 0) + 1
            name += f"-{taken[name]}" if taken[name] > 1 else ""
            trials.append(TuneTrial(name, setting, seed))
    return trials


def _readable(setting: TunedSetting, seed: int) -> str:
    targets = _UNFIT.sub("-", setting.targets or "").strip("-.")[:_LONGEST_TARGETS]
    rate = f"{setting.lr:g}".replace("+", "")
    return "-".join(part for part in (f"r{setting.rank}", targets, f"lr{rate}", f"seed{seed}") if part)
