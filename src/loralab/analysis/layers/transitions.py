"""The moments of a text's tokens before and after some blocks, in as many passes as the memory wants.

Each transition needs two D×D matrices in float64 (four with held-out tokens), so L of them L·2·D²·8 bytes: those that
do not fit into `BUDGET` wait for another pass over the text. Memory then depends on neither depth nor text.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from loralab.analysis.layers.moments import Moments
from loralab.analysis.layers.stream import run_levels
from loralab.analysis.layers.texts import TokenBatch
from loralab.models.surgery.blocks import Run

BUDGET = 2**30
"""Bytes for the moments; one transition at least is gathered at a time."""


def at_once(width: int, held_out: bool) -> int:
    """How many transitions one pass over the text gathers."""
    return max(1, BUDGET // ((4 if held_out else 2) * width * width * 8))


def gather(model: nn.Module, batches: Sequence[TokenBatch], runs: Sequence[Run], skip_first: bool) -> list[Moments]:
    """The moments of each run of blocks: x is what enters the first of them, y what leaves the last.

    One pass; all real tokens are counted, but for each sequence's first with `skip_first`.
    """
    gathered: list[Moments | None] = [None] * len(runs)
    open_states: dict[int, Tensor] = {}
    starts, ends = {start for start, _ in runs}, {end for _, end in runs}
    last_use = {start: max(end for each, end in runs if each == start) for start in starts}

    def visit(level: int, states_BTD: Tensor, mask_BT: Tensor) -> None:
        if level not in starts | ends:
            return
        wanted_BT = mask_BT.clone()
        wanted_BT[:, 0] &= not skip_first
        states_ND = states_BTD[wanted_BT]
        for number, (start, end) in enumerate(runs):
            if end == level:
                moments = gathered[number] or Moments(states_ND.shape[1])
                moments.add(open_states[start], states_ND)
                gathered[number] = moments
        for start in [each for each in open_states if last_use[each] == level]:
            del open_states[start]
        if level in starts:
            open_states[level] = states_ND

    run_levels(model, batches, visit, range(min(starts), max(ends) + 1))
    return [moments for moments in gathered if moments is not None]
