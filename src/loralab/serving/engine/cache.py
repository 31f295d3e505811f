"""The keys and values of all rows that decode together, allocated once.

Every row's newest token stands in the same column of the cache, whatever the row's length: a row that joins is written
to the left of that column, and what lies before its start is masked as a prompt's padding is. So a step writes one
column for all rows, no row is ever moved when another joins, and the model sees what it sees in a padded batch: its own
masks, sliding windows and positions hold without knowing of rows. When the columns are used up, all are moved to the
left once.

Shapes: R rows, H heads of keys and values, N columns, D width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class RowLayer(DynamicLayer):
    """A layer's keys and values [R, H, N, D]: a step writes column `clock.now` and reads from `clock.first` on."""

    keys: Tensor
    values: Tensor

    def __init__(self, clock: "RowCache", prompt: DynamicLayer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock = clock
        self.keys, self.values = (clock.room_for(each) for each in keys_and_values(prompt))
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a token of every row that takes part; what they attend to, [R, H, now + 1 - first, D]."""
        rows, now, first = len(key_states), self._clock.now, self._clock.first
        self.keys[:rows, :, now : now + 1] = key_states
        self.values[:rows, :, now : now + 1] = value_states
        return self.keys[:rows, :, first : now + 1], self.values[:rows, :, first : now + 1]

    def get_seq_length(self) -> int:
        """The columns that were written before this step."""
        return self._clock.now - self._clock.first

    def put(self, row: int, prompt: DynamicLayer, start: int) -> None:
        """A prompt's keys and values into a row, from column `start` on."""
        for room, each in zip((self.keys, self.values), keys_and_values(prompt), strict=True):
            room[row, :, start : start + each.shape[-2]] = each[0]

    def move(self, source: int, target: int, used: slice) -> None:
        """A row into another's place, and zeros into its own."""
        for each in (self.keys, self.values):
            each[target, :, used] = each[source, :, used]
            each[source] = 0

    def shift(self, rows: int, used: slice, start: int) -> None:
        """Columns to where they shall start."""
        for each in (self.keys, self.values):
            each[:rows, :, start : start + used.stop - used.start] = each[:rows, :, used].clone()


def keys_and_values(layer: DynamicLayer) -> tuple[Tensor, Tensor]:
    """[1, H, T, D] each, of a prompt that has been read."""
    assert layer.keys is not None
    assert layer.values is not None
    return layer.keys, layer.values


class RowCache(Cache):
    """A cache of `rows` rows and `columns` columns, in the form that transformers' models take."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.now = 0
        """The column that the next token of every row is written to."""
        self.starts: list[int] = []
        """Where each row begins that is there."""
        self.row_layers: list[RowLayer] = []
        """Empty until the first prompt joins."""
        super().__init__(layers=[])

    @property
    def first(self) -> int:
        """The column from which on any row has tokens."""
        return min(self.starts, default=self.now)

    @property
    def memory_bytes(self) -> int:
        """What is allocated for keys and values."""
        return sum(each.keys.nbytes + each.values.nbytes for each in self.row_layers)

    def join(self, prompt: Sequence[DynamicLayer]) -> int:
        """Give the keys and values of a prompt, [1, H, T, D] a layer, the next row; its number."""
        if not self.layers:
            self.row_layers = [RowLayer(self, each) for each in prompt]
            self.layers = [*self.row_layers]
        row, length = len(self.starts), prompt[0].get_seq_length()
        if length > self.now:
            self._make_room(length)
        for layer, each in zip(self.row_layers, prompt, strict=True):
            layer.put(row, each, self.now - length)
        self.starts.append(self.now - length)
        return row

    def leave(self, row: int) -> None:
        """Free a row: the last one takes its place, and zeros the last one's, so that nothing of it meets another."""
        last = len(self.starts) - 1
        for layer in self.row_layers:
            layer.move(last, row, slice(self.first, self.now))
        self.starts[row] = self.starts[last]
        self.starts.pop()
        if not self.starts:
            self.now = 0

    def length_of(self, row: int) -> int:
        """Tokens that a row has."""
        return self.now - self.starts[row]

    def advance(self) -> None:
        """The column has been written: go on to the next, and back to the left where there is none."""
        self.now += 1
        if self.now == self.columns:
            self._move_by(-self.first)

    def _make_room(self, length: int) -> None:
        """Columns to the left of `now` for a prompt of this length."""
        self._move_by(length - self.now)

    def _move_by(self, columns: int) -> None:
        """Everything to the right, or to the left."""
        used = slice(self.first, self.now)
        for layer in self.row_layers:
            layer.shift(len(self.starts), used, used.start + columns)
        self.starts = [start + columns for start in self.starts]
        self.now += columns

    def mask(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """[R, now + 1 - first] of these rows: 1 where a row has a token, the one to be written included."""
        starts_R1 = torch.tensor([[self.starts[row]] for row in rows], device=device)
        return (torch.arange(self.first, self.now + 1, device=device) >= starts_R1).long()

    def firsts(self, rows: Sequence[int]) -> Tensor:
        """[R] of these rows, int32: the column where each begins."""
        return torch.tensor([self.starts[row] for row in rows], dtype=torch.int32)

    def added_mask(self, rows: Sequence[int], like: Tensor) -> Tensor | None:
        """[R, 1, now + 1 - first] to be added to scores: far below zero where a row has no token; None: all have."""
        starts = [self.starts[row] for row in rows]
        if min(starts) == max(starts) == self.first:
            return None
        starts_R1 = torch.tensor(starts, device=like.device)[:, None]
        before = torch.arange(self.first, self.now + 1, device=like.device) < starts_R1
        return like.new_zeros(before.shape).masked_fill_(before, torch.finfo(like.dtype).min)[:, None]

    def positions(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """[R, 1] of these rows: of the token to be written, in its own row."""
        return torch.tensor([[self.length_of(row)] for row in rows], device=device)

    def room_for(self, prompt: Tensor) -> Tensor:
        """Zeros [R, H, N, D] for the keys or values of a layer that reads prompts as [1, H, T, D]."""
        _, heads, _, width = prompt.shape
        return prompt.new_zeros(self.rows, heads, self.columns, width)
