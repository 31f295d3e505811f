"""What runs on one base must have in common."""

from collections.abc import Sequence

from loralab.errors import SpecError
from loralab.training.config import TrainConfig
from loralab.training.held_out import chooses

SHARED = (
    *(
        "model",
        "task",
        "data",
        "validation",
        "validation_share",
        "training_share",
        "kind",
        "labels",
        "limit",
        "max_length",
        "packing",
    ),
    *("init_adapter", "preference", "beta", "label_smoothing", "head_dropout", "gradient_checkpointing"),
    *("dtype", "quantize", "attention", "liger", "device", "threads"),
)
"""Fields that decide the base, the task, or how the data are read. In all others the runs may differ."""


def check_sharing(configs: Sequence[TrainConfig]) -> None:
    """Raises one SpecError that lists everything in which the runs cannot differ and do."""
    if not configs:
        raise SpecError("there are no runs to train together: give at least one configuration")
    problems = [
        f"{name} is {', '.join(map(repr, values))}"
        for name in SHARED
        for values in [tuple(dict.fromkeys(getattr(config, name) for config in configs))]
        if len(values) > 1
    ]
    if len({chooses(config) for config in configs}) > 1:
        problems.append("some choose their adapter by measurements (eval_every, best_epoch) and others do not")
    if any(config.compile for config in configs):
        problems.append(
            "compile: a compiled block is one run's, and would be compiled anew at every turn; leave it out"
        )
    drawn = [name for name in ("validation_share", "training_share") if getattr(configs[0], name) is not None]
    if drawn and len({config.seed for config in configs}) > 1:
        problems.append(f"{drawn[0]} is drawn by the seed, and the seeds differ: give validation instead")
    if configs[0].quantize is not None and len(configs) > 1 and any(_changes_base(config) for config in configs):
        problems.append("init pissa takes its part out of the base before that is quantised: train it alone")
    places = [config.out for config in configs]
    problems += [
        f"out {place}: two runs cannot write there" for place in sorted({p for p in places if places.count(p) > 1})
    ]
    if problems:
        raise SpecError("these runs cannot share one base: " + "; ".join(problems))


def _changes_base(config: TrainConfig) -> bool:
    return config.init == "pissa" or any(row.fixed.get("init") == "pissa" for row in config.rows)
