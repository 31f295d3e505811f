"""One configuration trained over several seeds, and the median of what they reach (paper §5.2: median over 5 seeds)."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median, stdev
from typing import Any

from loralab.errors import SpecError
from loralab.training.config import TrainConfig
from loralab.training.folder import RunFolder
from loralab.training.run import TrainResult, train


@dataclass(frozen=True)
class SeedsResult:
    """What came of the runs."""

    adapter: str
    """The folder of the adapter whose first metric is nearest to the median."""
    runs: tuple[TrainResult, ...]
    """In the order of the seeds."""
    seeds: tuple[int, ...]
    metrics: dict[str, float]
    """The median over the seeds, metric by metric."""
    spread: dict[str, float]
    """The sample standard deviation over the seeds; 0 for a single one."""


def train_seeds(config: TrainConfig, seeds: tuple[int, ...]) -> SeedsResult:
    """Train once with each seed, into `config.out`/seed-N, one after the other.

    With `config.resume` runs that are finished are taken as they are, and one that was interrupted goes on. Raises
    SpecError for no seeds or one that is given twice, and whatever `train` raises.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise SpecError(f"seeds {', '.join(map(str, seeds)) or 'none'}: give at least one, each once")
    runs = tuple(_run(replace(config, seed=seed, out=str(Path(config.out) / f"seed-{seed}"))) for seed in seeds)
    names = list(runs[0].metrics)
    values = {name: [run.metrics[name] for run in runs] for name in names}
    return SeedsResult(
        adapter=_nearest(runs, names),
        runs=runs,
        seeds=seeds,
        metrics={name: median(each) for name, each in values.items()},
        spread={name: stdev(each) if len(each) > 1 else 0.0 for name, each in values.items()},
    )


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


def _nearest(runs: tuple[TrainResult, ...], names: list[str]) -> str:
    """The folder of the run that is nearest to the median in the metric that matters: the first but the loss."""
    name = next((each for each in names if each != "loss"), "loss")
    if name not in names:
        return runs[0].adapter
    middle = median(run.metrics[name] for run in runs)
    return min(runs, key=lambda run: abs(run.metrics[name] - middle)).adapter


def as_answer(result: SeedsResult) -> dict[str, Any]:
    """The median run's own figures, with the medians as its metrics and every seed beside them."""
    middle = next(run for run in result.runs if run.adapter == result.adapter)
    return asdict(middle) | {
        "metrics": result.metrics,
        "spread": result.spread,
        "seeds": [
            {"seed": seed, "adapter": run.adapter, "best_step": run.best_step, "metrics": run.metrics}
            for seed, run in zip(result.seeds, result.runs, strict=True)
        ],
    }
