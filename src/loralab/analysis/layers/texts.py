"""Text to measure a model on: a file, or the embedded sources of Python's standard library; cut, chosen, encoded.

What is fitted or chosen is so on one part, and measured on another: the last fifth of a file, or the embedded task's
test split, whose modules the other part does not have.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.evaluation.likelihood import mean_target_loss
from loralab.nn.mode import evaluating
from loralab.nn.targets import IGNORED
from loralab.tasks.docstrings import open_docstrings
from loralab.tasks.encoding.encode import padding_id
from loralab.tasks.encoding.encoded import Encoded
from loralab.tasks.encoding.tokens import prompt_ids
from loralab.tasks.example import Example
from loralab.tasks.readers.lines import read_lines
from loralab.tasks.table import expand_home

HELD_OUT = 0.2
"""The share at the end of a file that nothing is fitted on."""

EMBEDDED = "the sources of Python's standard library"
BATCH_TOKENS, BATCH_ROWS = 2048, 16
CHARACTERS_PER_TOKEN = 6
"""Of text before it is cut to a number of tokens: more than a token has on the average."""


@dataclass(frozen=True)
class Texts:
    """Documents, in two parts that have nothing in common."""

    source: str
    fit: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class TokenBatch:
    """Sequences padded on the right: ids [B, T], and a mask [B, T] that is true at real tokens."""

    ids_BT: Tensor
    mask_BT: Tensor


def read_texts(data: str | None, held_out: float = HELD_OUT) -> Texts:
    """The text file `data`: plain, or JSON lines with a "text" each; without one the embedded sources.

    Raises NotFoundError, and DataError for a file without text.
    """
    if not 0 <= held_out < 1:
        raise SpecError(f"heldout {held_out}: it is a share in [0, 1)")
    if data is None:
        splits = open_docstrings(None).splits
        fit, test = (tuple(_document(each) for each in splits[name]()) for name in ("train", "test"))
        return Texts(EMBEDDED, fit, test)
    path = Path(expand_home(data))
    if not path.is_file():
        raise NotFoundError(f'data file {path} does not exist; give a text file, or JSON lines with a "text" each')
    documents = _documents(path)
    if len(documents) == 1:
        whole = documents[0]
        cut = len(whole) - int(held_out * len(whole))
        return Texts(data, (whole[:cut],), (whole[cut:],) if cut < len(whole) else ())
    cut = len(documents) - int(held_out * len(documents))
    return Texts(data, documents[:cut], documents[cut:])


def joined(documents: Sequence[str]) -> list[str]:
    """All documents as one, for pieces of equal length."""
    return ["\n\n\n".join(documents)]


def sample_pieces(documents: Sequence[str], characters: int, count: int, seed: int = 0) -> list[str]:
    """At most `count` pieces of at most `characters`, drawn without repetition, in the order of the text.

    Raises SpecError for numbers below 1.
    """
    if characters < 1 or count < 1:
        raise SpecError(f"{count} pieces of {characters} characters: each must be at least 1")
    pieces = [
        piece
        for text in documents
        for start in range(0, len(text), characters)
        if (piece := text[start : start + characters]).strip()
    ]
    chosen = Random(seed).sample(range(len(pieces)), min(count, len(pieces)))
    return [pieces[number] for number in sorted(chosen)]


def encode(pieces: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: int) -> list[list[int]]:
    """The tokens of each piece as the tokenizer begins a text, cut to `longest`. Raises DataError if there is none."""
    rows = [ids[:longest] for ids in prompt_ids(pieces, tokenizer)] if pieces else []
    if not rows:
        raise DataError("there is no text to measure on; give a longer file")
    return rows


def token_batches(rows: Sequence[list[int]], pad_id: int) -> Iterator[TokenBatch]:
    """Alike long sequences together, at most `BATCH_TOKENS` tokens (or one sequence) at a time, longest first."""
    order = sorted(rows, key=len, reverse=True)
    while order:
        width = len(order[0])
        count = max(1, min(BATCH_ROWS, BATCH_TOKENS // width))
        taken, order = order[:count], order[count:]
        lengths = torch.tensor([len(row) for row in taken])
        ids_BT = torch.tensor([row + [pad_id] * (width - len(row)) for row in taken])
        yield TokenBatch(ids_BT, torch.arange(width)[None, :] < lengths[:, None])


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> float:
    """e to the mean −log p of every token but the first of each sequence. Raises NumericsError if it is not finite."""
    encoded = [Encoded(row, [IGNORED, *row[1:]]) for row in rows if len(row) > 1]
    if not encoded:
        raise DataError("the text has no second token to predict; give a longer file")
    with evaluating(model):
        loss = mean_target_loss(model, encoded, padding_id(tokenizer), batch_size=8)
    return math.exp(min(loss, 700.0))


def _document(example: object) -> str:
    assert isinstance(example, Example)
    return example.prompt + example.target


def _documents(path: Path) -> tuple[str, ...]:
    if path.suffix in (".jsonl", ".json"):
        documents = tuple(text for line in read_lines(path) if (text := line.text("text")).strip())
    else:
        try:
            whole = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
        documents = (whole,) if whole.strip() else ()
    if not documents:
        raise DataError(f'{path} holds no text; give a text file, or JSON lines with a "text" each')
    return documents
