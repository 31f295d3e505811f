"""samples.jsonl: what the model says to a few held-out examples, always the same, before, during and after a run.

A language model writes its answer; of a classifier and of a regression it is what the evaluation predicted.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from loralab.evaluation.answers import answers
from loralab.evaluation.evaluate import Evaluation, prompt_of
from loralab.files.whole import write_text
from loralab.generation.config import GenerationConfig
from loralab.methods.prefix.update import text_room
from loralab.models.load import LoadedModel
from loralab.nn.mode import evaluating
from loralab.processes.group import ALONE, Processes
from loralab.tasks.example import AnyExample, Conversation, Document, Example, ImageExample, LabelledExample, Preference
from loralab.tasks.table import Task

NEW_TOKENS = 48
"""Of a written answer, at most."""

BEGUN_WORDS = 12
"""Of a document, that are given to go on from."""


@dataclass(frozen=True)
class Reply:
    """One example, and what was said to it after a step; 0 is the base."""

    step: int
    prompt: str
    wanted: str
    answer: str


@dataclass(frozen=True)
class Chosen:
    """The examples that are asked."""

    task: Task
    places: tuple[int, ...]
    """Of each among those that are measured on."""
    examples: "tuple[Askable, ...]"

    @classmethod
    def of(cls, task: Task, split: str, limit: int | None, count: int) -> "Chosen":
        """`count` of the measured examples, spread evenly over them."""
        measured = task.examples(split, limit)
        places = spread_evenly(len(measured), count)
        return cls(task, places, tuple(to_ask(measured[place]) for place in places))

    def ask(
        self, loaded: LoadedModel, evaluation: Evaluation, step: int, max_length: int, processes: Processes = ALONE
    ) -> list[Reply]:
        """What the model, as it is now, says to each."""
        writes = self.task.model_kind == "generation"
        said = self._written(loaded, max_length, processes) if writes else self._predicted(evaluation)
        return [
            Reply(step, _asked(example), self._wanted(example), answer.strip())
            for example, answer in zip(self.examples, said, strict=True)
        ]

    def _written(self, loaded: LoadedModel, max_length: int, processes: Processes) -> Sequence[str]:
        asked = [each for each in self.examples if isinstance(each, Example | Conversation)]
        room = text_room(loaded.model)
        tokens = NEW_TOKENS if room is None else max(1, min(NEW_TOKENS, room // 2))
        config = GenerationConfig(max_new_tokens=tokens)

        def answer(some: Sequence[Example | Conversation]) -> Sequence[str]:
            assert isinstance(loaded.processor, PreTrainedTokenizerBase)
            return answers(loaded.model, loaded.processor, some, config, max_length)

        with evaluating(loaded.model):
            groups = [[each] for each in asked] if processes.are_several else [asked]
            return [text for texts in processes.map(answer, groups, "samples") for text in texts]

    def _predicted(self, evaluation: Evaluation) -> Sequence[str]:
        return [_rounded(self.task, evaluation.outputs[place]) for place in self.places]

    def _wanted(self, example: "Askable") -> str:
        if isinstance(example, Example | Conversation):
            return example.answers()[0]
        if example.label is None:
            return ""
        return self.task.labels[int(example.label)] if self.task.labels else f"{example.label:.4g}"


Askable = Example | Conversation | LabelledExample | ImageExample


def to_ask(example: AnyExample) -> Askable:
    """The example; of a pair of answers the preferred one; of a document the beginning, to be gone on from."""
    if isinstance(example, Preference):
        return example.chosen
    if not isinstance(example, Document):
        return example
    words = re.findall(r"\s*\S+", example.text)
    begun = min(BEGUN_WORDS, len(words) // 2)
    return Example("".join(words[:begun]), "".join(words[begun : 2 * BEGUN_WORDS]))


def spread_evenly(of: int, count: int) -> tuple[int, ...]:
    """At most `count` places of `of`, the first among them."""
    return tuple(sorted({place * of // count for place in range(count)})) if of else ()


def _asked(example: Askable) -> str:
    if isinstance(example, Example | Conversation):
        return prompt_of(example)
    if isinstance(example, ImageExample):
        return str(example.path)
    return example.text_a if example.text_b is None else f"{example.text_a} | {example.text_b}"


def _rounded(task: Task, output: str) -> str:
    """A class's name; four digits of a value."""
    return output if task.labels else f"{float(output):.4g}"


class SampleFile:
    """Appends samples, a JSON object a line."""

    def __init__(self, path: Path, after_step: int) -> None:
        """For a run that goes on after `after_step`; what was written of later steps is dropped."""
        self.path = path
        kept = [each for each in read_samples(path) if each.step <= after_step]
        if kept or path.is_file():
            write_text(path, "".join(_line(each) for each in kept))

    def write(self, samples: Sequence[Reply]) -> None:
        """Add what was said after one step."""
        if not samples:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, samples)))


def _line(sample: Reply) -> str:
    return json.dumps(asdict(sample), ensure_ascii=False) + "\n"


def read_samples(path: Path) -> list[Reply]:
    """Every sample written so far; a last line that a killed process left unfinished is dropped."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8")
    return [Reply(**json.loads(line)) for line in whole[: whole.rfind("\n") + 1].split("\n") if line]


def beside(samples: Sequence[Reply], last: int) -> list[dict[str, str | None]]:
    """Each example with what was said before the training and what after step `last`; None where it was not asked."""
    before = {each.prompt: each.answer for each in samples if each.step == 0}
    after = {each.prompt: each for each in samples if each.step == last}
    return [
        {"prompt": each.prompt, "wanted": each.wanted, "before": before.get(each.prompt), "after": each.answer}
        for each in after.values()
    ]


def in_short(sample: Reply, *, beside_wanted: bool) -> str:
    """Question and answer on one line, with what is right where that is short."""
    right = f" (right: {one_line(sample.wanted)})" if beside_wanted else ""
    return f"  {_end(one_line(sample.prompt), 24)} → {one_line(sample.answer) or '(nothing)'}{right}"


def one_line(text: str) -> str:
    """A text on one line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else "·" for each in " ".join(text.split()))


def _end(line: str, width: int) -> str:
    """The end of a line, which the answer follows."""
    return line if len(line) <= width else f"…{line[1 - width :]}"
