"""What to do next with the best run, as commands to paste."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loralab.analysis.report.ranking import Ranking
from loralab.analysis.report.section import Section
from loralab.methods.table import rows_of

SEEDS = "1,2,3"


@dataclass(frozen=True)
class Step:
    """Why, and how."""

    why: str
    command: str


def next_steps(sections: Sequence[Section], found: Sequence[Ranking]) -> list[Step]:
    """For unfinished runs, and for the best of every ranking; nothing that the sections show was done already."""
    unfinished = [section for section in sections if section.kind == "run" and not section.content.get("result")]
    steps = [_go_on(run) for run in unfinished if _is_at_home(run)]
    pruned = [each.content for each in sections if each.kind == "prune" and not each.content.get("healed_by")]
    steps += [Step(f"Heal {each['out']}, which lost blocks", str(each["heal"])) for each in pruned if "heal" in each]
    for ranking in found:
        steps += _of_best(ranking, sections)
    return list(dict.fromkeys(steps))


def _go_on(run: Section) -> Step:
    command = _joined("loralab train", *_as_trained(run), "--resume")
    return Step(f"{run.folder.name} has not ended: go on with it", command)


def _is_at_home(run: Section) -> bool:
    """Whether its folder is the one that it was told to write, as seen from here; only there it can go on."""
    out = run.content["config"].get("out")
    return isinstance(out, str) and Path(out).resolve() == run.folder.resolve()


def _of_best(ranking: Ranking, sections: Sequence[Section]) -> Iterator[Step]:
    entry = ranking.entries[0]
    run, folder = entry.best_run, entry.best_run.folder
    done = {section.kind: section for section in sections if _is_of(section, folder)}
    model = ["--model", str(run.content["config"].get("model"))]
    if _has_unseen_test(run):
        yield Step(
            f"Measure {folder.name} on examples that chose nothing",
            _joined("loralab eval", *_as_trained(run), "--split", "test"),
        )
    if len(entry.values) == 1:
        yield Step(
            f"One seed of {entry.name} says nothing of chance: train more",
            _joined("loralab train", *_as_trained(run), "--seeds", SEEDS, "--out", f"{folder}-seeds"),
        )
    yield from _rank(run, done)
    if "doctor" not in done:
        yield Step(f"Is anything wrong with {folder.name}?", _joined("loralab analyse doctor", str(folder), *model))
    if "merge" not in done and not run.content["config"].get("quantize"):
        yield Step(
            f"Make {folder.name} a model of its own",
            _joined("loralab merge", *model, "--adapter", str(folder), "--out", f"{folder}-merged"),
        )


def _rank(run: Section, done: dict[str, Section]) -> Iterator[Step]:
    """Ask which rank was enough; with an answer below the rank as trained, train with that."""
    if not all(row.spec_name == "LoRA" for row in rows_of(str(run.content["config"].get("method")))):
        return
    if "rank" not in done:
        yield Step(
            f"Would a lower rank have been enough for {run.folder.name}?",
            _joined("loralab analyse rank", *_as_trained(run), "--out", f"{run.folder}-rank"),
        )
        return
    knee, whole = done["rank"].content.get("knee"), done["rank"].content["curve"][-1]["rank"]
    if knee is not None and knee < whole:
        share = 100 * done["rank"].content.get("share", 0.95)
        yield Step(
            f"Rank {knee} keeps {share:.0f}% or more of what rank {whole} gained: train with it",
            _joined("loralab train", *_as_trained(run), "--rank", str(knee), "--out", f"{run.folder}-rank-{knee}"),
        )


def _is_of(section: Section, folder: Path) -> bool:
    """Whether a result is of the adapter in this folder: some analyses say its path, some its name alone."""
    adapter = section.content.get("adapter")
    if not isinstance(adapter, str) or section.kind in ("run", "cut"):
        return False
    return Path(adapter) == folder or Path(adapter).resolve() == folder.resolve() or adapter == folder.name


def _has_unseen_test(run: Section) -> bool:
    """Whether its task has a test split beside the one that was measured on while training."""
    measured = (run.content["result"].get("held_out") or {}).get("split")
    return "test" in run.content.get("splits", ()) and measured != "test"


def _as_trained(run: Section) -> list[str]:
    """The run's own record, from which a verb takes the model, the data and all that shapes a figure."""
    return ["--config", str(run.folder / "run.json")]


def _joined(verb: str, *words: str) -> str:
    return f"{verb} {shlex.join(words)}"
