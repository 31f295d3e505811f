"""`loralab train`: an adapter trained on a task, with one seed or several. The flags are the training's own
configuration.
"""

from dataclasses import asdict, dataclass, field, fields

from loralab.cli.flags import ESSENTIALS
from loralab.cli.showing import show_answer
from loralab.cli.verb import Answer, Verb
from loralab.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainVerbConfig(TrainConfig):
    """The flags of `loralab train`."""

    seeds: tuple[int, ...] | None = field(default=None, metadata={"group": "run"})
    """Train once with each of these seeds, into OUT/seed-N, and answer with the median; the answer's adapter is the
    one nearest to it."""


def run(config: TrainVerbConfig) -> Answer:
    """Train; the answer is the result of the training."""
    config.validate()
    single = TrainConfig(**{each.name: getattr(config, each.name) for each in fields(TrainConfig)})
    if config.seeds is None:
        from loralab.training.run import train

        return asdict(train(single))

    from loralab.experiments.seeds import as_answer, train_seeds

    return as_answer(train_seeds(single, config.seeds))


def show(answer: Answer) -> None:
    """The figures; of several seeds the medians, each seed's own metrics on a line of its own."""
    show_answer({key: value for key, value in answer.items() if key != "seeds"})
    for each in answer.get("seeds", ()):
        scores = "  ".join(f"{name} {value:.4g}" for name, value in each["metrics"].items())
        print(f"seed {each['seed']}: {scores}")


VERB = Verb(
    TrainVerbConfig,
    run,
    show,
    essentials=ESSENTIALS,
    example=(
        "loralab train --model smollm2-135m --task docstrings --rank 4 \\\n"
        "  --targets q_proj,v_proj --steps 80 --out out/docstrings"
    ),
)
