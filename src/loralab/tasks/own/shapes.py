"""The shapes of a user's JSON object, and the example that each becomes.

{"prompt", "completion"}, {"instruction", "output"} with or without "input" (Alpaca; Dolly: "context", "response"),
{"messages"} or {"conversations"} (ShareGPT), and {"text"} alone: text to be written;
{"text", "label"}, {"text_a", "text_b", "label"}: a class or a value to be predicted. A label here is as it stands
in the file; `labels` makes it an index. Each may have a "weight". Keys that only say where an object comes from
are ignored, and that is said; all others are errors.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from loralab.errors import some
from loralab.tasks.example import Conversation, Document, Example, Preference
from loralab.tasks.own.pairs import parse_preference
from loralab.tasks.own.turns import parse_messages, parse_sharegpt
from loralab.tasks.readers.lines import Line

ORIGIN = frozenset((
    "id", "_id", "idx", "index", "uid", "uuid", "guid", "row_id", "example_id", "prompt_id", "conversation_id",
    "source", "dataset", "origin", "subset", "split", "url", "link", "title", "license", "author", "date", "created",
    "created_at", "timestamp", "meta", "metadata", "info", "tags", "topic", "category", "domain", "task", "task_name",
    "task_type", "lang", "language", "model", "generator", "__index_level_0__", "Unnamed: 0", "",
))  # fmt: skip
"""Keys that say what an object is called or where it comes from; the last three are what pandas calls its index."""

WEIGHT = "weight"

INSTRUCTION, INPUT, RESPONSE = "### Instruction:\n", "### Input:\n", "### Response:\n"
"""The headings of an instruction's prompt, in this project's words: a model tuned on another template needs that one,
as {"prompt", "completion"}."""


@dataclass(frozen=True)
class RawLabelled:
    """One text or two, with the label as the file gives it."""

    line: Line
    text_a: str
    text_b: str | None
    label: Any
    weight: float = 1.0


Row = Example | Conversation | Document | Preference | RawLabelled


@dataclass(frozen=True)
class RowShape:
    """Which keys an object has, and what it becomes."""

    written: str
    """The keys that it must have, parted by spaces."""
    parse: Callable[[Line], Row]
    meaning: str
    """For a user whose keys are others."""
    optional: str = ""
    repeated: str = ""
    """Keys that say again what the others say; they are ignored as `ORIGIN` is."""

    @cached_property
    def required(self) -> frozenset[str]:
        """The keys that it must have."""
        return frozenset(self.written.split())

    @cached_property
    def used(self) -> frozenset[str]:
        """The keys that are read."""
        return self.required | {*self.optional.split(), WEIGHT}

    def unknown(self, line: Line) -> list[str]:
        """The line's keys that are neither read nor ignored."""
        return sorted(line.content.keys() - self.used - {*self.repeated.split()} - ORIGIN)


def parse_completion(line: Line) -> Example:
    """Prompt and completion as they stand; a space parts them where neither brings one."""
    prompt, completion = line.text("prompt"), line.text("completion")
    if not completion.strip():
        raise line.error("the completion is empty; there is nothing to learn from it")
    parted = not prompt or prompt[-1].isspace() or completion[0].isspace()
    return Example(prompt, completion if parted else " " + completion)


def parse_instruction(line: Line) -> Example:
    """An instruction with its output, which may be empty: then the answer is to say nothing, as in Alpaca's data."""
    given = line.text("input") if "input" in line.content else ""
    return Example(instruction_prompt(line.text("instruction"), given), line.text("output"))


def parse_dolly(line: Line) -> Example:
    """An instruction with its output under Dolly's names."""
    return Example(instruction_prompt(line.text("instruction"), line.text("context")), line.text("response"))


def instruction_prompt(instruction: str, text: str = "") -> str:
    """Instruction and input under headings of their own, a blank line between them, none for a blank input.

    The prompt ends in a line break after the last heading: the answer begins a line.
    """
    given = f"{INPUT}{text}\n\n" if text.strip() else ""
    return f"{INSTRUCTION}{instruction}\n\n{given}{RESPONSE}"


def parse_document(line: Line) -> Document:
    """A text alone."""
    text = line.text("text")
    if not text.strip():
        raise line.error("the text is empty; there is nothing to learn from it")
    return Document(text)


def parse_text(line: Line) -> RawLabelled:
    return RawLabelled(line, line.text("text"), None, line.content["label"])


def parse_pair(line: Line) -> RawLabelled:
    return RawLabelled(line, line.text("text_a"), line.text("text_b"), line.content["label"])


SCORES = "messages score_chosen score_rejected chosen_score rejected_score chosen_rating rejected_rating"
"""What preference data say besides."""

SHAPES = (
    RowShape("prompt completion", parse_completion, "a text to be written after a prompt"),
    RowShape("instruction output", parse_instruction, "an instruction (Alpaca; also input)", "input", "text"),
    RowShape("instruction context response", parse_dolly, "an instruction (Dolly)", repeated="text"),
    RowShape("text label", parse_text, "a class or a value of a text", repeated="label_text"),
    RowShape("text_a text_b label", parse_pair, "a class or a value of two texts", repeated="label_text"),
    RowShape("messages", parse_messages, "a chat: a list of role and content", "tools", "prompt"),
    RowShape("conversations", parse_sharegpt, "a chat (ShareGPT): from and value", "tools system"),
    RowShape("prompt chosen rejected", parse_preference, "two answers, one preferred", "tools", SCORES),
    RowShape("chosen rejected", parse_preference, "the same, beginning with one prompt", "tools", SCORES),
    RowShape("text", parse_document, "a text alone, of which all is learned"),
)

OTHER_NAMES = (
    dict.fromkeys(("question", "query", "user", "input", "source", "request"), "prompt")
    | dict.fromkeys(("answer", "response", "output", "target", "reply", "assistant"), "completion")
    | dict.fromkeys(("sentence", "review", "content", "document", "body", "comment", "article"), "text")
    | dict.fromkeys(("class", "sentiment", "rating", "intent", "labels"), "label")
    | dict.fromkeys(("sentence1", "premise", "text1", "question1"), "text_a")
    | dict.fromkeys(("sentence2", "hypothesis", "text2", "question2"), "text_b")
    | {name: name for name in ("prompt", "completion", "text", "label", "messages", "conversations")}
)
"""What people call the keys of a shape -> the key; said in an error, for what is meant is theirs to say."""


def parse_lines(lines: Sequence[Line], shape: RowShape) -> list[Row]:
    """Every line as an example of this shape; optional and ignored keys may come and go.

    Raises `DataError` with the line's number where the keys are another shape's or no shape's, or a value has
    the wrong type.
    """
    return [_weighted(line, shape.parse(_agreeing(line, shape))) for line in lines]


def shape_of(line: Line) -> RowShape:
    """The shape of a line's keys. Raises `DataError` where they are no shape's, with those that are too much."""
    keys = line.content.keys()
    near = [shape for shape in SHAPES if shape.required <= keys]
    for shape in near:
        if not shape.unknown(line):
            return shape
    called = "columns" if line.is_of_table else "keys"
    if not near:
        known = f"a {line.unit} must have those of{_known_shapes()}"
        raise line.error(f"its {called} are {_listed(keys)}{_renaming(keys)}; {known}")
    best = min(near, key=lambda shape: len(shape.unknown(line)))
    raise line.error(
        f"its {called} are {_listed(keys)}; {some(map(repr, best.unknown(line)), 12)} is not known beside "
        f"{_listed(best.required)}: remove it, or have one of{_known_shapes()}"
    )


def _known_shapes() -> str:
    """A line for each shape."""
    return "".join(f"\n  {', '.join(shape.written.split()):31} {shape.meaning}" for shape in SHAPES)


def _renaming(keys: Collection[str]) -> str:
    """What to call the keys, where other names for those of a shape are among them; or that they are not parted."""
    if len(keys) == 1 and (mark := next((mark for mark in ";\t|" if mark in next(iter(keys))), None)):
        return f" (one column: the file is separated by {mark!r}; save it with commas, or tabs as .tsv)"
    meant = {OTHER_NAMES.get(key.strip().lower().replace(" ", "_"), key): key for key in keys}
    for shape in SHAPES:
        if shape.required <= meant.keys():
            renamed = [f"{old!r:.80} to {new!r}" for new, old in meant.items() if new in shape.used and old != new]
            return f" (rename {' and '.join(renamed)})" if renamed else ""
    return ""


def ignored_keys(lines: Sequence[Line], shape: RowShape) -> tuple[str, ...]:
    """A sentence that says which keys of the lines are not read, and how often each stands there."""
    counts = Counter(key for line in lines for key in line.content if key not in shape.used)
    named = ", ".join(f"{key or 'a column without a name'} ({count})" for key, count in sorted(counts.items()))
    return (f"keys that are ignored, and how many objects have them: {named}",) if counts else ()


def _agreeing(line: Line, shape: RowShape) -> Line:
    if shape.required <= line.content.keys() and not shape.unknown(line):
        return line
    raise line.error(
        f"its keys are {_listed(line.content)}, those of the first line {_listed(shape.required)}; all lines must have "
        "the same shape"
    )


def _weighted(line: Line, row: Row) -> Row:
    """The row with its weight, a finite number that is not negative."""
    if WEIGHT not in line.content:
        return row
    weight = line.content[WEIGHT]
    if type(weight) not in (int, float) or not 0 <= weight < math.inf:
        raise line.error(f"the weight is {weight!r:.60}; it must be a finite number that is not negative")
    return replace(row, weight=float(weight))


def _listed(keys: Any) -> str:
    return some(sorted(keys), 12) or "none"
