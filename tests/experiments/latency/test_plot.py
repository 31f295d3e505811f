from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loralab.experiments.latency.contenders import contenders
from loralab.experiments.latency.plot import draw_slow_down
from loralab.experiments.latency.rows import Timing

AMONG = contenders(rank=4, sizes=(10, 100, 250))


def invented(batch: int, sequence: int) -> list[Timing]:
    """Slow-downs that grow with the size and shrink with the input."""
    return [
        Timing(batch, sequence, each.name, each.size, 1, 10.0, 1 + each.size / (10 * batch * sequence), 1.0, 1.0, None)
        for each in AMONG
    ]


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def colours(path: Path) -> set[tuple[int, ...]]:
    pixels = pixels_of(path)
    found, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(map(int, colour)) for colour, count in zip(found, counts, strict=True) if count > 1000}


@pytest.mark.parametrize("batches, sequences", [((1, 2, 4, 8, 16, 32), (128, 256, 512)), ((1,), (128,))])
def test_a_heat_map_of_the_grid(tmp_path: Path, batches: tuple[int, ...], sequences: tuple[int, ...]) -> None:
    path = tmp_path / "latency.png"
    rows = [row for batch, sequence in product(batches, sequences) for row in invented(batch, sequence)]
    draw_slow_down(rows, path, "Slow-down\nof nobody")
    assert min(pixels_of(path).shape[:2]) >= 900
    assert len(colours(path)) >= 4, "cells of different colours"


def test_settings_that_were_not_measured_are_left_grey(tmp_path: Path) -> None:
    draw_slow_down([*invented(1, 128), *invented(2, 256)], tmp_path / "latency.png", "")
    assert (238, 238, 238) in colours(tmp_path / "latency.png")
