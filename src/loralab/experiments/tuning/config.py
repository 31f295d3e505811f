"""The settings of a tuning, without torch, so that `--help` is quick."""

from dataclasses import dataclass, field, fields
from math import isfinite

from loralab.errors import SpecError
from loralab.methods.settings import TAKERS
from loralab.methods.table import names_sized_by, rows_of
from loralab.training.config import BoardName, TrainConfig

AUTO = "auto"

FREE_TO_CHANGE = ("out", "save_every", "keep", "overwrite", "resume", "cluster")
"""Fields in which a tuning that goes on may differ from the one it goes on with."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """Learning rates × ranks × sets of targets × seeds; everything else is the same for all of them."""

    out: str
    """Folder for the best adapter, the table, the pictures and a folder for each trial; the same command goes on in
    it."""

    ranks: tuple[int, ...] | None = field(default=None, metadata={"group": "tuning"})
    """The ranks to try; without them --rank alone."""

    lrs: str = field(default=AUTO, metadata={"group": "tuning"})
    """The learning rates to try, as 1e-4,3e-4,1e-3; auto tries five around ten times what full fine-tuning takes."""

    target_sets: str | None = field(default=None, metadata={"group": "tuning"})
    """The targets to try, separated by semicolons: q,v;all-linear. Without them --targets alone."""

    seeds: tuple[int, ...] = field(default=(1, 2), metadata={"group": "tuning"})
    """Train every setting once with each of these seeds; settings are judged by the mean over them."""

    budget_minutes: float = field(default=20.0, metadata={"group": "tuning"})
    """How long all of it may take: the first steps are measured, and from them comes how many there are. With steps or
    epochs, which say how long the best ones train, it does not count."""

    halvings: int = field(default=3, metadata={"group": "tuning"})
    """How often the worse half of the settings is stopped; 0 trains all of them to the end."""

    cluster: str | None = field(default=None, metadata={"group": "tuning"})
    """Share the trials out over the Ray cluster at this address, or auto for the one this machine belongs to, whose
    machines have loralab and see the folder, the data and the model under the same names. Trials of a lost worker are
    taken up by another."""

    overwrite: bool = field(default=False, metadata={"group": "run"})
    """Begin anew where the folder holds another tuning; anything else there is left alone."""

    # The tuning decides these for each of its trials: they are not flags here.
    lr: float = field(default=2e-4, init=False)
    seed: int = field(default=0, init=False)
    resume: bool = field(default=False, init=False)
    processes: int | None = field(default=None, init=False)
    shard: bool = field(default=False, init=False)
    compile: bool = field(default=False, init=False)
    eval_every: int = field(default=0, init=False)
    best_epoch: bool = field(default=False, init=False)
    best_metric: str | None = field(default=None, init=False)
    early_stop: int = field(default=0, init=False)
    eval_before: bool = field(default=False, init=False)
    samples: int = field(default=0, init=False)
    board: tuple[BoardName, ...] | None = field(default=None, init=False)

    @property
    def ranks_to_try(self) -> tuple[int, ...]:
        """At least one."""
        return (self.rank,) if self.ranks is None else self.ranks

    @property
    def targets_to_try(self) -> tuple[str | None, ...]:
        """The sets of targets, each as `--targets` takes it; None is the family's q and v."""
        if self.target_sets is None:
            return (self.targets,)
        return tuple(each.strip() for each in self.target_sets.split(";") if each.strip())

    @property
    def given_lrs(self) -> tuple[float, ...] | None:
        """The rates as given; None for auto. Raises SpecError for what is no number above 0."""
        if self.lrs.strip() == AUTO:
            return None
        return tuple(_rate(each) for each in self.lrs.split(",") if each.strip())

    def validate(self) -> None:
        """Raise one SpecError that lists everything wrong with the tuning itself, or return."""
        problems = _problems(self)
        if problems:
            raise SpecError("invalid tuning: " + "; ".join(problems))
        self.training().validate()

    def training(self, **changes: object) -> TrainConfig:
        """The configuration of one of its trials: everything they share, with these changes; without what its method
        does not take. Held-out data are what choices are made by, and no test split is."""
        values = {each.name: getattr(self, each.name) for each in fields(TrainConfig)}
        taken = {name for row in rows_of(self.method) for name in row.takes}
        idle = {each.name: each.default for each in fields(TrainConfig) if each.name in TAKERS - taken}
        chosen = {"overwrite": False, "eval_every": self.steps or 1, **changes}
        return TrainConfig(**values | idle | chosen)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and value > 0):
        raise SpecError(f"lrs: {text.strip()!r} is no learning rate; give numbers above 0, as 1e-4,3e-4,1e-3, or auto")
    return value


def _problems(config: TuneConfig) -> list[str]:
    lists: dict[str, tuple[object, ...]] = {
        "ranks": config.ranks_to_try,
        "lrs": config.given_lrs if config.given_lrs is not None else (AUTO,),
        "target_sets": config.targets_to_try,
        "seeds": config.seeds,
    }
    problems = [
        f"{name} {', '.join(map(str, values)) or 'none'}: give at least one, each once"
        for name, values in lists.items()
        if not values or len(set(values)) < len(values)
    ]
    problems += [f"ranks {rank}: at least 1 is needed" for rank in config.ranks_to_try if rank < 1]
    problems += [f"seeds {seed}: it cannot be negative" for seed in config.seeds if seed < 0]
    if not any(row.sized_by == "rank" for row in rows_of(config.method)):
        takers = ", ".join(names_sized_by("rank"))
        problems.append(f"method {config.method} has no rank to tune; choose {takers}, or compare with --tuned")
    if not config.budget_minutes > 0:
        problems.append(f"budget_minutes {config.budget_minutes:g}: it must be above 0")
    if config.halvings < 0:
        problems.append(f"halvings {config.halvings}: it cannot be negative")
    if config.eval_limit < 1:
        problems.append("eval_limit 0: settings are judged by held-out data; give at least 1")
    drawn = [name for name in ("validation_share", "training_share") if getattr(config, name) is not None]
    if drawn and len(config.seeds) > 1:
        problems.append(
            f"{drawn[0]} is drawn by the seed, and trials of several seeds could not be compared: give validation"
        )
    return problems
