"""The settings of a comparison, without torch, so that `--help` is quick."""

from dataclasses import dataclass, field, fields
from typing import Any

from loralab.errors import SpecError
from loralab.methods.settings import TAKERS
from loralab.methods.table import METHOD_NAMES, MethodRow, names_sized_by, rows_of
from loralab.training.config import TrainConfig

FREE_TO_CHANGE = ("out", "save_every", "keep", "method", "seed", "resume", "overwrite", "cell", "cluster")
"""Fields in which a comparison that goes on may differ from the one it goes on with, and those it decides itself."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig(TrainConfig):
    """Methods × seeds × the axes that apply to each method; everything else is the same for all of them."""

    out: str
    """Folder for the table, the pictures, and a folder for each training; the same command goes on in it."""

    methods: tuple[str, ...] = field(metadata={"group": "comparison", "names": METHOD_NAMES})
    """The methods to compare: {names}; or several at once, as lora+prefix-embed."""

    seeds: tuple[int, ...] = field(default=(1, 2, 3), metadata={"group": "comparison"})
    """Train each of them once with each of these seeds."""

    ranks: tuple[int, ...] | None = field(default=None, metadata={"group": "comparison"})
    """The ranks to try of methods that hold lora; without them --rank alone."""

    target_sets: str | None = field(default=None, metadata={"group": "comparison"})
    """The targets to try of methods that hold lora, separated by semicolons: q;k;v;q,v;q,k,v,o. Without them --targets
    alone, which here is lora's alone too."""

    sizes: tuple[int, ...] | None = field(default=None, metadata={"group": "comparison"})
    """The bottleneck sizes to try of adapter-h, -l and -p; without them --size alone."""

    prefix_sizes: tuple[str, ...] | None = field(default=None, metadata={"group": "comparison"})
    """The positions to try of prefix-embed and prefix-layer, before the prompt + after it: 8+4,16+8. Without them
    --prefix and --infix alone."""

    train_sizes: tuple[int, ...] | None = field(default=None, metadata={"group": "comparison"})
    """Train on the first so many examples, each in turn (the low-data table); without them --limit alone."""

    method_lr: dict[str, float] | None = field(default=None, metadata={"group": "comparison"})
    """The learning rate of some methods, as full=1e-5,bitfit=1e-3; the others have --lr."""

    tuned: bool = field(default=False, metadata={"group": "comparison"})
    """Find the rate of every setting first, with seed 0: five rates over two decades, around 5e-5 for methods that
    train the weights themselves and ten times that for all others, each for a share of the steps (tune_share) and
    judged on a tenth of the training split, which the trainings that are reported then learn from as well."""

    tune_share: float = field(default=0.25, metadata={"group": "comparison"})
    """With tuned: the length of a training that looks for the rate, as a share of those that are reported."""

    match_params: int | None = field(default=None, metadata={"group": "comparison"})
    """Equal budgets: give each method the rank, bottleneck size or number of positions whose trainable parameters (head
    apart) are nearest to N."""

    # Each training of the comparison decides these for itself: they are not flags here.
    method: str = field(default="lora", init=False)
    seed: int = field(default=0, init=False)
    resume: bool = field(default=False, init=False)
    processes: int | None = field(default=None, init=False)
    shard: bool = field(default=False, init=False)
    training_share: float | None = field(default=None, init=False)

    cell: int | None = field(default=None, metadata={"group": "comparison"})
    """Train this cell alone, counted from 0: for the jobs of an array on machines that share the folder. The same
    command without it trains what is left and makes the table."""

    cluster: str | None = field(default=None, metadata={"group": "comparison"})
    """Train the cells on the Ray cluster at this address, or auto for the one this machine belongs to, whose machines
    have loralab and see the folder, the data and the model under the same names. Cells of a lost worker are run
    again."""

    overwrite: bool = field(default=False, metadata={"group": "run"})
    """Begin anew where the folder holds another comparison; anything else there is left alone."""
    eval_before: bool = field(default=False, init=False)
    samples: int = field(default=0, init=False)

    @property
    def rows(self) -> tuple[MethodRow, ...]:
        """Of all the methods: a setting is for those of them that take it."""
        return tuple(row for method in self.methods for row in rows_of(method))

    @property
    def _refusal(self) -> str:
        return f"none of the methods ({', '.join(self.methods)}) takes it"

    def validate(self) -> None:
        """Raise one SpecError that lists everything wrong with the comparison itself, or return."""
        super().validate()
        problems = [*_list_problems(self), *_method_problems(self), *self.idle_settings(), *_budget_problems(self)]
        problems += [*_tuning_problems(self), *_cell_problems(self)]
        if problems:
            raise SpecError("invalid comparison: " + "; ".join(problems))

    def training(self, **changes: Any) -> TrainConfig:
        """The configuration of one of its trainings: everything they share, with these changes; without what its method
        does not take."""
        values = {each.name: getattr(self, each.name) for each in fields(TrainConfig)} | changes
        taken = {name for row in rows_of(values["method"]) for name in row.takes}
        idle = {each.name: each.default for each in fields(TrainConfig) if each.name in TAKERS - taken}
        return TrainConfig(**values | idle)

    @property
    def targets_to_try(self) -> tuple[str | None, ...]:
        """The sets of targets, each as `--targets` takes it; None is the family's q and v."""
        if self.target_sets is None:
            return (self.targets,)
        return tuple(each.strip() for each in self.target_sets.split(";") if each.strip())

    @property
    def prefixes_to_try(self) -> tuple[tuple[int, int], ...]:
        """(l_p, l_i) of each prefix size."""
        if self.prefix_sizes is None:
            return ((self.prefix, self.infix),)
        return tuple(_positions(each) for each in self.prefix_sizes)


def _positions(text: str) -> tuple[int, int]:
    before, plus, after = text.partition("+")
    if not (plus and before.strip().isdecimal() and after.strip().isdecimal()):
        raise SpecError(f"prefix_sizes: expected positions before + after the prompt, as 8+4, found {text!r}")
    return int(before), int(after)


def _list_problems(config: CompareConfig) -> list[str]:
    """Lists that are empty, or hold something twice."""
    lists: dict[str, tuple[Any, ...] | None] = {
        name: getattr(config, name) for name in ("methods", "seeds", "ranks", "sizes", "train_sizes")
    }
    lists["prefix_sizes"] = None if config.prefix_sizes is None else config.prefixes_to_try
    lists["target_sets"] = None if config.target_sets is None else config.targets_to_try
    return [
        f"{name} {', '.join(map(str, values)) or 'none'}: give at least one, each once"
        for name, values in lists.items()
        if values is not None and (not values or len(set(values)) < len(values))
    ]


def _method_problems(config: CompareConfig) -> list[str]:
    """Learning rates of methods that are not compared, and axes that apply to none that is."""
    strangers = [name for name in config.method_lr or {} if name not in config.methods]
    compared = ", ".join(config.methods)
    problems = [f"method_lr names {name}, which is not among the methods ({compared})" for name in strangers]
    axes = {"ranks": "rank", "target_sets": "rank", "sizes": "size", "prefix_sizes": "positions"}
    for name, size in axes.items():
        if getattr(config, name) is not None and not any(sized_by(method, size) for method in config.methods):
            takers = ", ".join(names_sized_by(size))
            problems.append(f"{name} is for {takers}, and none of the methods ({compared}) holds one of them")
    return problems


def _budget_problems(config: CompareConfig) -> list[str]:
    if config.match_params is None:
        return []
    chosen = [name for name in ("ranks", "sizes", "prefix_sizes") if getattr(config, name) is not None]
    problems = [f"match_params chooses what {name} lists: give one of them" for name in chosen]
    if config.match_params < 1:
        problems.append(f"match_params {config.match_params}: at least 1 parameter is needed")
    return problems


def _tuning_problems(config: CompareConfig) -> list[str]:
    if not config.tuned:
        return []
    problems = []
    if config.method_lr is not None:
        problems.append("method_lr gives rates that tuned would find: give one of them")
    if not 0 < config.tune_share <= 1:
        problems.append(f"tune_share {config.tune_share:g}: it must be above 0 and at most 1")
    if not (config.eval_limit or config.best_epoch):
        problems.append("tuned and eval_limit 0: rates are judged by held-out data; give at least 1")
    if config.validation_share is not None:
        problems.append(
            "tuned and validation_share: the seeds hold out different parts, which the search for rates would see; "
            "give validation"
        )
    return problems


def sized_by(method: str, size: str) -> bool:
    """Whether a method, or one of those joined by `+`, has a rank, a size, or positions."""
    return any(row.sized_by == size for row in rows_of(method))


def _cell_problems(config: CompareConfig) -> list[str]:
    """One cell knows nothing of the others."""
    if config.cell is None:
        return []
    beside = [name for name in ("tuned", "overwrite", "cluster") if getattr(config, name)]
    problems = [f"cell {config.cell} and {name}: that is of all cells together; leave one out" for name in beside]
    return problems + ([f"cell {config.cell}: cells are counted from 0"] if config.cell < 0 else [])
