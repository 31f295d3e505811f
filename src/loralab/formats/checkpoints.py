"""The adapters in a run's checkpoints: which there are, and the folder that a word names.

    RUN/checkpoints/step-00000040/               the adapter after step 40, a folder like any adapter's
    RUN/checkpoints/step-00000040.safetensors    what the run needs to go on from there
    RUN/checkpoints/best/, best.safetensors      the best so far, where evaluations choose one

Loads no torch.
"""

import re
from pathlib import Path

from loralab.errors import AdapterFileError, NotFoundError, SpecError
from loralab.files.names import CHECKPOINTS_NAME, CONFIG_NAME, PEFT_FILES, RUN_NAME

BEST, LAST = "best", "last"
_STEP = re.compile(r"step-(\d{8})")


def step_name(step: int) -> str:
    """What a step's checkpoint is called, without an ending."""
    return f"step-{step:08d}"


def checkpoint_folder(run: str | Path, word: str | int) -> Path:
    """The folder of the adapter that a run's checkpoint holds: `best`, `last`, or that of a step.

    Raises NotFoundError for a folder without checkpoints, SpecError for a word that names none, saying which do.
    """
    folder = Path(run)
    steps, has_best = _steps(folder), _is_adapter(folder / CHECKPOINTS_NAME / BEST)
    if not steps and not has_best:
        raise NotFoundError(f"checkpoint {word} was asked of {folder}: {_why_none(folder)}")
    if word == BEST and has_best:
        return folder / CHECKPOINTS_NAME / BEST
    step = steps[-1] if word == LAST and steps else int(word) if str(word).isdecimal() else None
    if step not in steps:
        raise SpecError(f"checkpoint {word} was asked of {folder}, which has {_choice(steps, has_best)}")
    return folder / CHECKPOINTS_NAME / step_name(step)


def run_and_word(folder: str | Path) -> tuple[str, str] | None:
    """The run whose checkpoint this folder is, and the word that names it there: what `checkpoint_folder` was given;
    None for any other folder."""
    path = Path(folder)
    step = _STEP.fullmatch(path.name)
    if path.parent.name != CHECKPOINTS_NAME or not (step or path.name == BEST):
        return None
    return str(path.parent.parent), str(int(step[1])) if step else BEST


def _why_none(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder; name a run's"
    if any((folder / CHECKPOINTS_NAME).glob("*.safetensors")):
        return (
            "an earlier version wrote its checkpoints, which are for going on (train … --resume); that writes new ones"
        )
    return "it holds no checkpoint; name a run's folder, or leave it out"


def refuse_unfinished(path: str | Path) -> None:
    """NotFoundError for a run's folder without its adapter, and AdapterFileError for a checkpoint's file, saying what
    to write instead."""
    source = Path(path)
    if source.is_dir() and (source / RUN_NAME).is_file() and not any((source / name).exists() for name in PEFT_FILES):
        raise NotFoundError(_unfinished(source))
    if source.is_file() and source.parent.name == CHECKPOINTS_NAME and source.suffix == ".safetensors":
        beside = source.with_suffix("")
        advice = (
            f"its adapter is the folder {beside}" if _is_adapter(beside) else "resume the run, which writes adapters"
        )
        raise AdapterFileError(f"{source} is what a run goes on from (--resume), not an adapter: {advice}")


def _unfinished(run: Path) -> str:
    steps, has_best = _steps(run), _is_adapter(run / CHECKPOINTS_NAME / BEST)
    if not steps and not has_best:
        return f"{run} is a run that did not end and has no checkpoint yet; go on with it (train … --resume)"
    word = LAST if steps else BEST
    return (
        f"{run} is a run that did not end: it has {_choice(steps, has_best)}. Name one (--checkpoint {word}; in Python "
        f'checkpoint="{word}"; or its folder, {checkpoint_folder(run, word)}), or go on with the run (train … --resume)'
    )


def _choice(steps: list[int], has_best: bool) -> str:
    words = [*([BEST] if has_best else []), *([LAST] if steps else []), *map(str, steps)]
    return f"the checkpoints {', '.join(words)}"


def _steps(run: Path) -> list[int]:
    """The steps whose adapter is whole, in their order."""
    found = ((_STEP.fullmatch(each.name), each) for each in (run / CHECKPOINTS_NAME).glob("step-*"))
    return sorted(int(match[1]) for match, each in found if match and _is_adapter(each))


def _is_adapter(folder: Path) -> bool:
    """The configuration is moved into place last."""
    return (folder / CONFIG_NAME).is_file()
