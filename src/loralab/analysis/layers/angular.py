"""How far n blocks turn the residual stream, and which n turn it least ("The Unreasonable Ineffectiveness of the Deeper
Layers", arXiv 2403.17887).

    d(ℓ, n) = (1/π) · mean over samples of arccos( ⟨h_ℓ, h_{ℓ+n}⟩ / (‖h_ℓ‖·‖h_{ℓ+n}‖) )      ℓ*(n) = argmin_ℓ d(ℓ, n)

d is 0 for parallel states, 1/2 for orthogonal and 1 for opposite ones. In float64, where equal states come out below
1e-8. Memory is that of one batch and (L+1)² numbers, whatever the length of the text.

Shapes: N samples, L blocks, D width of the stream.

Written: angular.json, angular.png, and angular.csv if asked for.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loralab.analysis.layers.config import Sampling, Tokens
from loralab.analysis.layers.stream import chosen_states, run_levels
from loralab.analysis.layers.texts import (
    CHARACTERS_PER_TOKEN,
    TokenBatch,
    encode,
    read_texts,
    sample_pieces,
    token_batches,
)
from loralab.errors import DataError, NotFoundError, NumericsError, SpecError
from loralab.files.whole import write_json, write_text
from loralab.models.families.aliases import final_norm_paths
from loralab.models.load import LoadedModel
from loralab.models.surgery.blocks import blocks_of
from loralab.pictures.picture import COLOURS, INK, colour_bar, in_whole_numbers, picture, style
from loralab.progress import tracked
from loralab.tasks.encoding.encode import padding_id

SLICE = 256
"""Samples that are turned into float64 at once."""
CONVENTION = (
    "blocks are counted from 0; D[i][j] is the distance between what enters block i and what enters block j, j = L "
    "being what leaves the last block before the final norm; best: drop blocks start to end_exclusive - 1"
)
POST_NORM = (
    "this model has no final norm: its blocks end in their own norms (post-norm), where the residual stream is not a "
    "sum of what the blocks add and the argument for dropping blocks does not hold; read the distances as a description"
)


@dataclass(frozen=True)
class AngularDistances:
    """The mean and the standard deviation over samples of the distance between every two levels."""

    mean_LL: Tensor
    """[L+1, L+1], symmetric; float64."""
    std_LL: Tensor
    samples: int

    @property
    def blocks(self) -> int:
        """L."""
        return len(self.mean_LL) - 1

    def distance(self, start: int, count: int) -> float:
        """d(ℓ, n)."""
        return float(self.mean_LL[start, start + count])

    def best(self, count: int) -> int:
        """ℓ*(n): the first of the n blocks that turn the stream least. Raises SpecError for an n out of range."""
        if not 1 <= count <= self.blocks:
            raise SpecError(f"{count} blocks cannot be dropped: the model has {self.blocks}; choose 1 to {self.blocks}")
        return int(torch.diagonal(self.mean_LL, count).argmin())


def angles(states_NLD: Tensor) -> Tensor:
    """The angle over π between every two of the levels of each sample, [N, L, L] in float64.

    Raises NumericsError for a state that is zero.
    """
    wide_NLD = states_NLD.double()
    norms_NL1 = torch.linalg.vector_norm(wide_NLD, dim=-1, keepdim=True)
    if bool((norms_NL1 == 0).any()):
        raise NumericsError("a state of the residual stream is zero: it has no direction to measure")
    unit_NLD = wide_NLD / norms_NL1
    cosine_NLL = (unit_NLD @ unit_NLD.mT).clamp(-1, 1)
    angles_NLL: Tensor = torch.arccos(cosine_NLL) / math.pi
    return angles_NLL


def angular_distances(model: nn.Module, batches: Sequence[TokenBatch], tokens: Tokens = "last") -> AngularDistances:
    """Of every two levels, over the samples that `tokens` says. Raises what `run_levels` and `angles` raise."""
    levels = len(blocks_of(model)) + 1
    total_LL, squares_LL = (torch.zeros(levels, levels, dtype=torch.float64) for _ in range(2))
    count = 0
    for batch in tracked(batches, "batches"):
        states_NLD = _states(model, batch, tokens)
        for first in range(0, len(states_NLD), SLICE):
            found_NLL = angles(states_NLD[first : first + SLICE])
            total_LL += found_NLL.sum(0)
            squares_LL += found_NLL.square().sum(0)
        count += len(states_NLD)
    mean_LL = (total_LL / count).fill_diagonal_(0)
    variance_LL = (squares_LL / count - mean_LL.square()).clamp(min=0)
    return AngularDistances(mean_LL, variance_LL.sqrt().fill_diagonal_(0), count)


def block_sizes(written: str, blocks: int) -> list[int]:
    """`1:L-1` (both ends), `1,2,4` or `8`, where L is the number of blocks. Raises SpecError for anything else."""
    try:
        if ":" in written:
            first, last = (_size(word, blocks) for word in written.split(":"))
            sizes = list(range(first, last + 1))
        else:
            sizes = [_size(word, blocks) for word in written.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(1 <= size <= blocks for size in sizes):
        raise SpecError(f"block sizes {written!r}: give numbers of 1 to {blocks}, as 1:L-1 or 1,2,4")
    return sizes


def _size(word: str, blocks: int) -> int:
    name, minus, rest = word.strip().partition("-")
    if name == "L":
        return blocks - (int(rest) if minus else 0)
    return int(word)


def _states(model: nn.Module, batch: TokenBatch, tokens: Tokens) -> Tensor:
    """[N, L+1, D]: the chosen states of one batch at every level."""
    kept: list[Tensor] = []

    def keep(_: int, states_BTD: Tensor, mask_BT: Tensor) -> None:
        kept.append(chosen_states(states_BTD, mask_BT, tokens).cpu())

    run_levels(model, [batch], keep)
    return torch.stack(kept, 1)


def draw_angular(distances: AngularDistances, sizes: Sequence[int], path: Path, title: str) -> None:
    """d(ℓ, n) for every start and size with the best start of each size marked, and the best distance of each size."""
    with picture(path, title, 10.4, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        blocks = distances.blocks
        grid = np.full((blocks, blocks), np.nan)
        for count in range(1, blocks + 1):
            for start in range(blocks - count + 1):
                grid[count - 1, start] = distances.distance(start, count)
        edges = (-0.5, blocks - 0.5, 0.5, blocks + 0.5)
        image = left.imshow(grid, origin="lower", extent=edges, aspect="auto", cmap="viridis", vmin=0)
        best = [distances.best(count) for count in sizes]
        left.plot(best, sizes, "o", color="white", markeredgecolor=INK, markersize=4.5, label="least of its n")
        left.legend(fontsize=9, frameon=False, loc="upper right")
        style(left, "distance d(ℓ, n)", "ℓ: first block of those to drop", "n: how many blocks", grid=None)
        colour_bar(figure, image, left, "angle / π: 0 parallel, 1/2 orthogonal")
        right.plot(
            sizes,
            [distances.distance(*each) for each in zip(best, sizes, strict=True)],
            color=COLOURS[0],
            marker="o",
            markersize=3.5,
        )
        style(right, "the least distance of each n", "n: how many blocks", "d(ℓ*, n)")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            in_whole_numbers(axes.xaxis)
        in_whole_numbers(left.yaxis)


def measure_angular(loaded: LoadedModel, sampling: Sampling) -> AngularDistances:
    """The distances of a model over the fitting part of a text. Raises what reading and running raise."""
    texts = read_texts(sampling.data)
    pieces = sample_pieces(texts.fit, sampling.max_len * CHARACTERS_PER_TOKEN, sampling.samples, sampling.seed)
    rows = encode(pieces, loaded.tokenizer, sampling.max_len)
    return angular_distances(loaded.model, list(token_batches(rows, padding_id(loaded.tokenizer))), sampling.tokens)


def analyse_angular(loaded: LoadedModel, out: Path, sampling: Sampling, sizes: str, *, csv: bool) -> dict[str, Any]:
    """Measure, write the files, and return the summary that the command line prints."""
    distances = measure_angular(loaded, sampling)
    counts = block_sizes(sizes, distances.blocks)
    out.mkdir(parents=True, exist_ok=True)
    content = as_json(loaded.name, distances, sampling, counts)
    notes = [] if final_norm_paths(loaded.model) else [POST_NORM]
    write_json(out / "angular.json", content | {"notes": notes})
    draw_angular(
        distances, counts, out / "angular.png", f"Angular distance across n blocks of {Path(loaded.name).name}"
    )
    files = [str(out / "angular.json"), str(out / "angular.png")]
    if csv:
        write_text(out / "angular.csv", _csv(distances))
        files.append(str(out / "angular.csv"))
    names = ("model", "blocks", "tokens", "samples", "text", "best")
    return {name: content[name] for name in names} | {"notes": notes, "files": files}


def as_json(model: str, distances: AngularDistances, sampling: Sampling, sizes: Sequence[int]) -> dict[str, Any]:
    """The whole of angular.json."""
    return {
        "model": model,
        "blocks": distances.blocks,
        "tokens": sampling.tokens,
        "samples": distances.samples,
        "text": read_texts(sampling.data).source,
        "max_len": sampling.max_len,
        "convention": CONVENTION,
        "D": distances.mean_LL.tolist(),
        "std": distances.std_LL.tolist(),
        "best": [
            {
                "n": n,
                "start": distances.best(n),
                "end_exclusive": distances.best(n) + n,
                "distance": distances.distance(distances.best(n), n),
            }
            for n in sizes
        ],
    }


def read_angular(path: Path, model: str, blocks: int) -> AngularDistances:
    """The distances of an angular.json. Raises NotFoundError, and DataError for a file of another model or kind."""
    content = read_analysis(path, ("model", "blocks", "D", "std", "samples"), model, blocks)
    mean_LL, std_LL = (torch.tensor(content[name], dtype=torch.float64) for name in ("D", "std"))
    return AngularDistances(mean_LL, std_LL, int(content["samples"]))


def read_analysis(path: Path, keys: Sequence[str], model: str, blocks: int) -> dict[str, Any]:
    """An analysis' own JSON, if it is of this model. Raises NotFoundError and DataError."""
    if not path.is_file():
        raise NotFoundError(f"no such analysis: {path}; write it with loralab analyse")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}; write it with loralab analyse") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)}: it is not what this analysis writes")
    if (content["model"], content["blocks"]) != (model, blocks):
        raise DataError(
            f"{path} is of {content['model']} with {content['blocks']} blocks; here the model is {model} with {blocks}"
        )
    return dict(content)


def _csv(distances: AngularDistances) -> str:
    rows = [
        f"{start},{count},{distances.distance(start, count):.9f},{float(distances.std_LL[start, start + count]):.9f}"
        for count in range(1, distances.blocks + 1)
        for start in range(distances.blocks - count + 1)
    ]
    return "\n".join(["start,n,distance,std", *rows]) + "\n"
