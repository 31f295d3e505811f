"""The keys and values of a beam search: one row an input, whose prompt all its beams look at.

The beams of an input are tokens of one call, side by side, and what each has written is a path through columns that it
alone, or with those that came from the same beam, is let see. So a prompt is kept once, a beam that goes on as two is
not copied, and putting beams in another order changes the mask, never a key: a step writes W columns an input, and
transformers' cache, which keeps W rows an input, copies every column of every row. A column that no beam sees any more
is written anew.

Shapes: I inputs, W beams, H heads of keys and values, N columns, D width of a head, P tokens of a prompt.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from loralab.serving.engine.cache import keys_and_values

GROWTH = 128
"""Columns that are added when none is free: memory is taken as paths need it."""


class TreeLayer(DynamicLayer):
    """A layer's keys and values [I, H, N, D]."""

    keys: Tensor
    values: Tensor

    def __init__(self, tree: "TreeCache", prompt: DynamicLayer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tree = tree
        self.keys, self.values = (
            each.new_zeros(tree.inputs, each.shape[1], tree.columns, each.shape[3]) for each in keys_and_values(prompt)
        )
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a token of every beam, [I, H, W, D]; all that is looked at, [I, H, used, D]."""
        columns_IW, used = self._tree.written, self._tree.used
        inputs_I1 = torch.arange(len(columns_IW), device=columns_IW.device)[:, None]
        self.keys[inputs_I1, :, columns_IW] = key_states.transpose(1, 2)
        self.values[inputs_I1, :, columns_IW] = value_states.transpose(1, 2)
        return self.keys[: len(columns_IW), :, :used], self.values[: len(columns_IW), :, :used]

    def get_seq_length(self) -> int:
        """Columns before this step's."""
        return self._tree.used - self._tree.written.shape[1]

    def put(self, number: int, prompt: DynamicLayer) -> None:
        """A prompt's keys and values into the first columns of an input that has none yet."""
        for room, each in zip((self.keys, self.values), keys_and_values(prompt), strict=True):
            room[number, :, : each.shape[-2]] = each[0]

    def move(self, source: int, target: int) -> None:
        """An input into another's place, and zeros into its own."""
        for each in (self.keys, self.values):
            each[target] = each[source]
            each[source] = 0

    def grow(self, columns: int) -> None:
        """More columns behind those that there are."""
        self.keys, self.values = (
            torch.cat([each, each.new_zeros(*each.shape[:2], columns, each.shape[3])], 2)
            for each in (self.keys, self.values)
        )


class TreeCache(Cache):
    """A cache for `inputs` inputs of `beams` beams each, in the form that transformers' models take."""

    def __init__(self, inputs: int, beams: int, columns: int, device: torch.device) -> None:
        self.inputs, self.columns = inputs, columns
        self.lengths: list[int] = []
        """Tokens of each input's beams, its prompt's included."""
        self.used = 0
        """Columns that are looked at."""
        self.written = torch.empty(0, beams, dtype=torch.long, device=device)
        """[I, W]: the columns of this step."""
        self._sees = torch.zeros(inputs, beams, columns, dtype=torch.bool, device=device)
        """[I, W, N]: which columns a beam looks at."""
        self._position = torch.zeros(inputs, columns, dtype=torch.long, device=device)
        """[I, N]: of the token that a column holds."""
        self._tree_layers: list[TreeLayer] = []
        super().__init__(layers=[])

    @property
    def memory_bytes(self) -> int:
        """What is allocated for keys and values."""
        return sum(each.keys.nbytes + each.values.nbytes for each in self._tree_layers)

    def join(self, prompt: Sequence[DynamicLayer]) -> None:
        """Give the keys and values of a prompt, [1, H, P, D] a layer, to the next input; all its beams see them."""
        length = prompt[0].get_seq_length()
        if length > self.columns:
            self._grow(length - self.columns)
        if not self.layers:
            self._tree_layers = [TreeLayer(self, each) for each in prompt]
            self.layers = [*self._tree_layers]
        number = len(self.lengths)
        for layer, each in zip(self._tree_layers, prompt, strict=True):
            layer.put(number, each)
        self._sees[number] = False
        self._sees[number, :, :length] = True
        self._position[number, :length] = torch.arange(length, device=self._position.device)
        self.lengths.append(length)

    def leave(self, number: int) -> None:
        """Free an input: the last takes its place, and zeros the last one's, so that nothing of it meets another."""
        last = len(self.lengths) - 1
        for layer in self._tree_layers:
            layer.move(last, number)
        for each in (self._sees, self._position):
            each[number] = each[last]
        self.lengths[number] = self.lengths[last]
        self.lengths.pop()

    def follow(self, number: int, parents_W: Tensor) -> None:
        """Each beam of an input goes on from one of them: it sees what that one sees."""
        self._sees[number] = self._sees[number, parents_W]

    def open_columns(self) -> None:
        """A column for the next token of every beam: the first that no beam of its input sees."""
        inputs, beams = len(self.lengths), self.written.shape[1]
        seen_IN = self._sees[:inputs].any(1)
        most = int(seen_IN.sum(1).max()) + beams
        if most > self.columns:
            self._grow(most - self.columns)
            seen_IN = self._sees[:inputs].any(1)
        self.written = seen_IN.byte().argsort(dim=1, stable=True)[:, :beams]
        self.used = max(int(self.written.max()), int(seen_IN.any(0).nonzero().max())) + 1
        each_W = torch.arange(beams, device=self.written.device)
        self._sees[torch.arange(inputs, device=each_W.device)[:, None], each_W, self.written] = True
        self._position[:inputs].scatter_(1, self.written, self.positions())

    def positions(self) -> Tensor:
        """[I, W]: of the tokens of this step."""
        lengths_I1 = torch.tensor(self.lengths, device=self._position.device)[:, None]
        return lengths_I1.expand(-1, self.written.shape[1])

    def mask(self, window: int | None = None) -> Tensor:
        """[I, 1, W, used]: what each beam looks at; of a window only the tokens that are less than so far away."""
        sees_IWN = self._sees[: len(self.lengths), :, : self.used]
        if window is not None:
            away_IN = self.positions()[:, :1] - self._position[: len(self.lengths), : self.used]
            sees_IWN = sees_IWN & (away_IN < window)[:, None]
        return sees_IWN[:, None]

    def advance(self) -> None:
        """The columns have been written."""
        self.lengths = [length + 1 for length in self.lengths]

    def _grow(self, columns: int) -> None:
        columns = max(columns, GROWTH)
        for layer in self._tree_layers:
            layer.grow(columns)
        self._sees, self._position = (
            torch.cat([each, each.new_zeros(*each.shape[:-1], columns)], -1) for each in (self._sees, self._position)
        )
        self.columns += columns
