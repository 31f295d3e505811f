"""`loralab train`: an adapter trained on a task. The flags are the training's own configuration."""

from dataclasses import asdict

from loralab.cli.answer import show_answer
from loralab.cli.verb import Answer, Verb
from loralab.training.config import TrainConfig


def run(config: TrainConfig) -> Answer:
    """Train; the answer is the result of the training."""
    config.validate()

    from loralab.training.run import train

    return asdict(train(config))


VERB = Verb(
    TrainConfig,
    run,
    show_answer,
    example=(
        "loralab train --model smollm2-135m --task docstrings --rank 4 \\\n"
        "  --targets q_proj,v_proj --steps 80 --out out/docstrings"
    ),
)
