"""One configuration trained over several seeds: the median of what they reach (paper §5.2: median over 5 seeds), and a
summary beside the runs.

    OUT/seed-N        a run each
    OUT/seeds.json    the answer: every seed, mean, standard deviation and median of every metric
    OUT/seeds.md      the same for people
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loralab.errors import SpecError
from loralab.experiments.comparison.rows import Spread, spread, spread_text
from loralab.experiments.comparison.table import markdown_table
from loralab.files.whole import write_json, write_text
from loralab.training.command import folded, train_command
from loralab.training.config import TrainConfig
from loralab.training.folder import RunFolder
from loralab.training.interrupt import RunStopped
from loralab.training.run import TrainResult, train


@dataclass(frozen=True)
class SeedsResult:
    """What came of the runs."""

    adapter: str
    """The folder of the adapter whose first metric is nearest to the median."""
    runs: tuple[TrainResult, ...]
    """In the order of the seeds."""
    seeds: tuple[int, ...]
    spreads: Mapping[str, Spread]
    """Over the seeds, metric by metric."""
    summary: Path
    """seeds.md."""

    @property
    def metrics(self) -> dict[str, float]:
        """The median over the seeds, metric by metric."""
        return {name: each.median for name, each in self.spreads.items()}

    @property
    def mean(self) -> dict[str, float]:
        """The mean over the seeds, metric by metric."""
        return {name: each.mean for name, each in self.spreads.items()}

    @property
    def spread(self) -> dict[str, float]:
        """The sample standard deviation over the seeds; 0 for a single one."""
        return {name: each.sd for name, each in self.spreads.items()}


def train_seeds(config: TrainConfig, seeds: tuple[int, ...]) -> SeedsResult:
    """Train once with each seed, into `config.out`/seed-N, one after the other, and write the summary.

    With `config.resume` runs that are finished are taken as they are, and one that was interrupted goes on. Raises
    SpecError for no seeds or one that is given twice, `RunStopped` where it was asked to stop, and whatever `train`
    raises.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise SpecError(f"seeds {', '.join(map(str, seeds)) or 'none'}: give at least one, each once")
    try:
        runs = tuple(_run(replace(config, seed=seed, out=str(Path(config.out) / f"seed-{seed}"))) for seed in seeds)
    except RunStopped as stopped:
        raise _stopped(config, seeds, stopped) from None
    names = list(runs[0].metrics)
    spreads = {name: spread([run.metrics[name] for run in runs]) for name in names}
    result = SeedsResult(_nearest(runs, spreads), runs, seeds, spreads, Path(config.out) / "seeds.md")
    write_json(result.summary.with_suffix(".json"), as_answer(result))
    write_text(result.summary, _markdown(config, result))
    return result


def _run(config: TrainConfig) -> TrainResult:
    """This seed's run: new, gone on with, or finished before."""
    folder = RunFolder(Path(config.out))
    if not config.resume or not folder.record.is_file():
        return train(replace(config, resume=False))
    record = folder.read_record()
    prolonged = any(record["config"].get(name) != getattr(config, name) for name in ("steps", "epochs"))
    if "result" not in record or prolonged or config.differences(record["config"]):
        return train(config)
    return TrainResult(**record["result"])


def _stopped(config: TrainConfig, seeds: tuple[int, ...], stopped: RunStopped) -> RunStopped:
    """The same, with the command that goes on with all seeds."""
    said, _, _ = str(stopped).partition("\nTo go on:")
    again = folded(train_command(config, seeds=seeds, seed=None, resume=True, overwrite=None))
    return RunStopped(f"{said}\nTo go on with all seeds:\n\n{again}\n", stopped.number)


def _nearest(runs: tuple[TrainResult, ...], spreads: Mapping[str, Spread]) -> str:
    """The folder of the run that is nearest to the median in the metric that matters: the first but the loss."""
    name = next((each for each in spreads if each != "loss"), "loss")
    if name not in spreads:
        return runs[0].adapter
    return min(runs, key=lambda run: abs(run.metrics[name] - spreads[name].median)).adapter


def as_answer(result: SeedsResult) -> dict[str, Any]:
    """The median run's own figures, with the medians as its metrics and every seed beside them."""
    middle = next(run for run in result.runs if run.adapter == result.adapter)
    return asdict(middle) | {
        "metrics": result.metrics,
        "mean": result.mean,
        "spread": result.spread,
        "seeds": [
            {"seed": seed, "adapter": run.adapter, "best_step": run.best_step, "metrics": run.metrics}
            for seed, run in zip(result.seeds, result.runs, strict=True)
        ],
        "summary": str(result.summary),
    }


def _markdown(config: TrainConfig, result: SeedsResult) -> str:
    """The table of the seeds, with what they come to."""
    names = list(result.spreads)
    rows = [
        [f"seed {seed}", *(f"{run.metrics[name]:.4g}" for name in names)]
        for seed, run in zip(result.seeds, result.runs, strict=True)
    ]
    rows.append(["mean ± sd", *(spread_text(result.spreads[name]) for name in names)])
    rows.append(["median", *(f"{result.spreads[name].median:.4g}" for name in names)])
    what = f"{config.method}, trained once with each seed and measured on held-out data; sd is the sample's."
    nearest = f"Nearest to the median: `{result.adapter}`."
    return "\n\n".join([f"# {config.model} on {config.task}", what, markdown_table(["", *names], rows), nearest]) + "\n"
