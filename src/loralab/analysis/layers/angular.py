"""How far n blocks turn the residual stream, and which n turn it least ("The Unreasonable Ineffectiveness of the Deeper
Layers", arXiv 2403.17887).

    d(ℓ, n) = (1/π) · mean over samples of arccos( ⟨h_ℓ, h_{ℓ+n}⟩ / (‖h_ℓ‖·‖h_{ℓ+n}‖) )      ℓ*(n) = argmin_ℓ d(ℓ, n)

d is 0 for parallel states, 1/2 for orthogonal and 1 for opposite ones. In float64, where equal states come out below
1e-8. Memory is that of one batch and (L+1)² numbers, whatever the length of the text.

Shapes: N samples, L blocks, D width of the stream.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from loralab.analysis.layers.stream import Tokens, chosen_states, run_levels
from loralab.analysis.layers.texts import TokenBatch
from loralab.errors import NumericsError, SpecError
from loralab.models.surgery.blocks import blocks_of
from loralab.pictures.picture import COLOURS, GRID, INK, picture, plain

SLICE = 256
"""Samples that are turned into float64 at once."""


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
        """ℓ*(n): the first of the n blocks that turn the stream least. Raises SpecError for an n that cannot be."""
        if not 1 <= count <= self.blocks:
            raise SpecError(f"{count} blocks were asked for; the model has {self.blocks}: give 1 to {self.blocks}")
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
    found: Tensor = torch.arccos(cosine_NLL) / math.pi
    return found


def angular_distances(model: nn.Module, batches: Sequence[TokenBatch], tokens: Tokens = "last") -> AngularDistances:
    """Of every two levels, over the samples that `tokens` says. Raises what `run_levels` and `angles` raise."""
    levels = len(blocks_of(model)) + 1
    total_LL, squares_LL = (torch.zeros(levels, levels, dtype=torch.float64) for _ in range(2))
    count = 0
    for batch in batches:
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


def draw_angular(found: AngularDistances, sizes: Sequence[int], path: Path, title: str) -> None:
    """d(ℓ, n) for every start and size with the best start of each size marked, and the best distance of each size."""
    with picture(path, title, 10.4, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        blocks = found.blocks
        grid = np.full((blocks, blocks), np.nan)
        for count in range(1, blocks + 1):
            for start in range(blocks - count + 1):
                grid[count - 1, start] = found.distance(start, count)
        edges = (-0.5, blocks - 0.5, 0.5, blocks + 0.5)
        image = left.imshow(
            grid, origin="lower", extent=edges, aspect="auto", cmap=matplotlib.colormaps["viridis"], vmin=0
        )
        best = [found.best(count) for count in sizes]
        left.plot(best, sizes, "o", color="white", markeredgecolor=INK, markersize=4.5, label="least of its n")
        left.legend(fontsize=9, frameon=False, loc="upper right")
        left.set_title("distance d(ℓ, n)", fontsize=10, color=INK)
        left.set_xlabel("ℓ: first block of those to drop", fontsize=10, color=INK)
        left.set_ylabel("n: how many blocks", fontsize=10, color=INK)
        bar = figure.colorbar(image, ax=left, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("angle / π: 0 parallel, 1/2 orthogonal", fontsize=9, color=INK)
        bar.ax.tick_params(length=0, labelsize=8, colors=INK)
        right.plot(
            sizes,
            [found.distance(*each) for each in zip(best, sizes, strict=True)],
            color=COLOURS[0],
            marker="o",
            markersize=3.5,
        )
        right.set_title("the least distance of each n", fontsize=10, color=INK)
        right.set_xlabel("n: how many blocks", fontsize=10, color=INK)
        right.set_ylabel("d(ℓ*, n)", fontsize=10, color=INK)
        right.set_ylim(bottom=0)
        right.grid(color=GRID, linewidth=0.6)
        for axes in (left, right):
            plain(axes)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.yaxis.set_major_locator(MaxNLocator(integer=True))
