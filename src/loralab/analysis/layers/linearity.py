"""The analysis of linearity as files: linearity.json and linearity.png."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from loralab.analysis.layers.config import Clouds
from loralab.analysis.layers.moments import Linearity, Moments, refuse_few_tokens, score
from loralab.analysis.layers.texts import TokenBatch, encode, joined, read_texts, sample_pieces, token_batches
from loralab.analysis.layers.transitions import at_once, gather
from loralab.errors import SpecError
from loralab.files.whole import write_json
from loralab.models.context import context_length
from loralab.models.load import LoadedModel
from loralab.models.surgery.blocks import Run, blocks_of
from loralab.pictures.panels import Chart, draw_charts
from loralab.tasks.encoding.encode import padding_id

Mode = Literal["main", "delta"]
Metric = Literal["lstsq", "orthogonal"]


@dataclass(frozen=True)
class CloudBatches:
    """The tokens of a text in batches: to fit on, and held out."""

    source: str
    fit: list[TokenBatch]
    held_out: list[TokenBatch]
    tokens: int
    """To fit on, as they are counted."""


def analyse_linearity(
    loaded: LoadedModel, out: Path, clouds: Clouds, mode: Mode, metric: Metric, *, reference: bool
) -> dict[str, Any]:
    """Score every block, write the files, and return the summary that the command line prints."""
    batches = cloud_batches(loaded, clouds)
    width = stream_width(loaded)
    refuse_few_tokens(batches.tokens, width)
    scores = score_blocks(loaded, batches, clouds.skip_first_token, cutoff=not reference)
    ranked = [each.block for each in rank(scores, mode, metric)]
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "model": loaded.name,
        "blocks": len(scores),
        "text": batches.source,
        "tokens": batches.tokens,
        "width": width,
        "tokens_per_width": batches.tokens / width,
        "noise": width / (batches.tokens - 1),
        "mode": mode,
        "metric": metric,
        "most_linear_first": ranked,
        "scores": [row(each) for each in scores],
    }
    write_json(out / "linearity.json", content)
    _draw(scores, out / "linearity.png", f"How linear the blocks of {Path(loaded.name).name} are")
    return content | {"files": [str(out / "linearity.json"), str(out / "linearity.png")]}


def cloud_batches(loaded: LoadedModel, clouds: Clouds) -> CloudBatches:
    """Chunks of a text as batches, the held-out ones from its other part. Raises what reading them raises."""
    texts = read_texts(clouds.data, clouds.heldout)
    aside = round(clouds.heldout * clouds.chunks) if texts.held_out else 0
    fit = _rows(loaded, joined(texts.fit), clouds, clouds.chunks - aside)
    held_out = _rows(loaded, joined(texts.held_out), clouds, aside) if aside else []
    pad_id = padding_id(loaded.tokenizer)
    counted = sum(len(row) - clouds.skip_first_token for row in fit)
    return CloudBatches(texts.source, list(token_batches(fit, pad_id)), list(token_batches(held_out, pad_id)), counted)


def score_blocks(
    loaded: LoadedModel, batches: CloudBatches, skip_first: bool, *, cutoff: bool = True
) -> list[Linearity]:
    """The scores of every block; so many passes over the text as `transitions` says."""
    runs = [(block, block + 1) for block in range(len(blocks_of(loaded.model)))]
    gathered = moments_of(loaded, batches, runs, skip_first)
    return [score(run[0], mine, other, cutoff=cutoff) for run, mine, other in gathered]


def moments_of(
    loaded: LoadedModel, batches: CloudBatches, runs: Sequence[Run], skip_first: bool
) -> Iterator[tuple[Run, Moments, Moments | None]]:
    """Each run with the moments of the tokens to fit on and of those held out, in as many passes over the text as the
    memory wants."""
    step = at_once(stream_width(loaded), bool(batches.held_out))
    for first in range(0, len(runs), step):
        part = runs[first : first + step]
        fit = gather(loaded.model, batches.fit, part, skip_first)
        others = gather(loaded.model, batches.held_out, part, skip_first) if batches.held_out else [None] * len(part)
        yield from zip(part, fit, others, strict=True)


def rank(scores: Sequence[Linearity], mode: Mode, metric: Metric) -> list[Linearity]:
    """The blocks, most linear first. One that adds nothing is exactly linear."""

    def value(each: Linearity) -> float:
        values = {
            ("main", "lstsq"): each.main,
            ("delta", "lstsq"): each.delta,
            ("main", "orthogonal"): each.orthogonal,
            ("delta", "orthogonal"): each.orthogonal_delta,
        }
        chosen = values[mode, metric]
        return math.inf if chosen is None else chosen

    return sorted(scores, key=value, reverse=True)


def stream_width(loaded: LoadedModel) -> int:
    """D. Raises SpecError where the config does not say it."""
    width = getattr(loaded.model.config.get_text_config(), "hidden_size", None)
    if not isinstance(width, int):
        raise SpecError(f"model {loaded.name!r} does not say how wide its stream is (hidden_size)")
    return width


def row(each: Linearity) -> dict[str, Any]:
    """A block's line of linearity.json, in the names of the specification."""
    values = asdict(each)
    names = {
        "block": "ell", "tokens": "tokens", "main": "ls_main", "delta": "ls_delta", "orthogonal": "lo",
        "orthogonal_delta": "lo_delta", "held_out": "r2_heldout", "held_out_delta": "r2_heldout_delta",
        "norm": "norm_h", "norm_change": "norm_delta", "cosine": "cos",
    }  # fmt: skip
    return {names[name]: value for name, value in values.items()}


def _rows(loaded: LoadedModel, documents: Sequence[str], clouds: Clouds, count: int) -> list[list[int]]:
    tokenizer: PreTrainedTokenizerBase = loaded.tokenizer
    longest = context_length(loaded.model) or clouds.chars * 4
    return encode(sample_pieces(documents, clouds.chars, count, clouds.seed), tokenizer, longest)


def _draw(scores: Sequence[Linearity], path: Path, title: str) -> None:
    def line(name: str) -> tuple[list[float], list[float]]:
        points = [(float(each.block), value) for each in scores if (value := getattr(each, name)) is not None]
        return [x for x, _ in points], [y for _, y in points]

    ratio = [each.norm_change / each.norm for each in scores]
    without = {"fitted tokens": line("delta"), "held-out tokens": line("held_out_delta")}
    charts = [
        Chart(
            "the stream after a block, from before it",
            "block",
            "share that a map explains",
            {"any affine map": line("main"), "a scaled rotation": line("orthogonal")},
        ),
        Chart(
            "what the block adds, from before it",
            "block",
            "share that an affine map explains",
            {name: points for name, points in without.items() if points[0]},
        ),
        Chart(
            "how much a block adds",
            "block",
            "mean norm, added / stream",
            {"‖added‖ / ‖stream‖": ([float(each.block) for each in scores], ratio)},
            logarithmic=min(ratio) > 0,
        ),
    ]
    draw_charts(charts, path, title)
