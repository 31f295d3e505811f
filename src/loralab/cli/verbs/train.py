"""`loralab train`: an adapter trained on a task, with one seed or several. The flags are the training's own
configuration.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from loralab.cli.flags import ESSENTIALS
from loralab.cli.showing import WIDTH, readable, readable_bytes, show_heading, show_lines, show_table
from loralab.cli.verb import Answer, Verb
from loralab.errors import SpecError
from loralab.processes.place import ProcessPlace
from loralab.tasks.preference import METRICS as PAIRED
from loralab.training.command import folded
from loralab.training.config import TrainConfig

LONGEST_TEXT = 70
"""Characters of a sample's text in the table at the end; samples.jsonl has all of it."""

UNITS = {"loss": "loss, nats per target", "perplexity": "perplexity"}
"""Metrics that are better when lower, and what they are called."""


@dataclass(frozen=True, kw_only=True)
class TrainVerbConfig(TrainConfig):
    """The flags of `loralab train`."""

    seeds: tuple[int, ...] | None = field(default=None, metadata={"group": "run"})
    """Train once with each of these seeds, into OUT/seed-N, and answer with the median; the answer's adapter is the
    one nearest to it. OUT/seeds.md and OUT/seeds.json have every seed, the mean and the standard deviation."""


def run(config: TrainVerbConfig) -> Answer:
    """Train; the answer is the result of the training."""
    config.validate()
    single = TrainConfig(**{each.name: getattr(config, each.name) for each in fields(TrainConfig)})
    if config.seeds is None:
        from loralab.training.run import train

        return asdict(train(single))

    if ProcessPlace.here().count > 1:
        raise SpecError(
            "seeds under a launcher of several processes: each seed is a run with its own; give --processes instead, "
            "without the launcher, or one --seed"
        )
    from loralab.experiments.seeds import as_answer, train_seeds

    return as_answer(train_seeds(single, config.seeds))


def show(answer: Answer) -> None:
    """The scores before and after, a few answers, the figures of the run, and what can be done next."""
    print()
    if "seeds" in answer:
        _show_seeds(answer)
    else:
        _show_scores(answer)
        _show_samples(answer["samples"])
    show_lines(*_facts(answer))
    if answer["next"]:
        print("\nnext:")
        print("\n".join(folded(command) for command in answer["next"].values()))


def _show_scores(answer: Answer) -> None:
    if not answer["metrics"]:
        return
    before, after, held_out = answer["before"], answer["metrics"], answer["held_out"]
    columns = ("", *(["before"] if before else []), "after")
    rows = [
        [_unit(name, after), *([_score(before.get(name))] if before else []), _score(value)]
        for name, value in after.items()
    ]
    title = (
        f"{_some(held_out['examples'], 'held-out example')} ({held_out['split']})" if held_out else "held-out examples"
    )
    show_table(title, columns, rows)


def _unit(name: str, metrics: Mapping[str, float]) -> str:
    """What a row is called; the loss of pairs of answers is of the objective that compares them, and no nats."""
    return name if name == "loss" and set(PAIRED) <= set(metrics) else UNITS.get(name, name)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _show_samples(samples: list[dict[str, str | None]]) -> None:
    """Each example on lines of its own, one for everything that was said."""
    for each in samples:
        show_heading(_cut(f"… {_line(each['prompt'])}", WIDTH, from_end=True))
        for name in ("before", "after", "wanted"):
            if each[name] is not None:
                print(f"  {name.ljust(7)} {_cut(_line(each[name]) or '(nothing)', LONGEST_TEXT)}")
    if samples:
        print()


def _line(text: str | None) -> str:
    """On one line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else "·" for each in " ".join((text or "").split()))


def _cut(text: str, width: int, *, from_end: bool = False) -> str:
    """At most `width` characters: the first, or the last, which an answer follows."""
    if len(text) <= width:
        return text.removeprefix("… ") if from_end else text
    return f"… {text[2 - width :]}" if from_end else f"{text[: width - 1]}…"


def _show_seeds(answer: Answer) -> None:
    """A line for each seed, then what they come to."""
    names = list(answer["metrics"])
    rows: list[list[str] | None] = [
        [f"seed {each['seed']}", *_scores(each["metrics"], names)] for each in answer["seeds"]
    ]
    summed = {"mean": answer["mean"], "sd": answer["spread"], "median": answer["metrics"]}
    rows += [None, *([name, *_scores(values, names)] for name, values in summed.items())]
    show_table("held-out examples", ("", *names), rows)


def _scores(values: Mapping[str, float], names: list[str]) -> list[str]:
    return [_score(values.get(name)) for name in names]


def _facts(answer: Answer) -> list[str]:
    """What was trained, what it took, and where it is."""
    head = f" and {answer['head_params']:,} of the head" if answer["head_params"] else ""
    share = 100 * answer["trainable_params"] / answer["total_params"]
    best = f"; step {answer['best_step']} was the best and is kept" if answer["best_step"] is not None else ""
    steps = _some(answer["steps"], "step")
    chosen = "The seed nearest to the median: a" if "seeds" in answer else "A"
    return [
        f"{chosen}dapter in {answer['adapter']}: {answer['trainable_params']:,} parameters{head} "
        f"({share:.3g}% of {answer['total_params']:,}).",
        f"{_losses(answer)}{steps}{best}, {answer['tokens']:,} tokens, {_time(answer['seconds'])} "
        f"({readable(answer['tokens_per_second'])} tokens/s), {readable_bytes(answer['peak_memory_bytes'])} of memory "
        "at the most.",
        *([f"Every seed, mean and standard deviation: {answer['summary']}"] if "summary" in answer else []),
    ]


def _losses(answer: Answer) -> str:
    if answer["first_loss"] is None:
        return ""
    return f"Training loss {answer['first_loss']:.3f} → {answer['last_loss']:.3f} in "


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


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
