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
        """Tokens of each input's beams, its prompt's included, and those that this step writes."""
        self.used = 0
        """Columns that are looked at."""
        self.written = torch.empty(0, beams, dtype=torch.long, device=device)
        """[I, W]: the columns of this step."""
        self._paths = torch.zeros(inputs, beams, columns, dtype=torch.int32, device=device)
        """[I, W, N]: the columns of a beam's tokens, in their order; of so many as the input's length says."""
        self.tree_layers: list[TreeLayer] = []
        super().__init__(layers=[])

    @property
    def memory_bytes(self) -> int:
        """What is allocated for keys and values."""
        return sum(each.keys.nbytes + each.values.nbytes for each in self.tree_layers)

    def join(self, prompt: Sequence[DynamicLayer]) -> None:
        """Give the keys and values of a prompt, [1, H, P, D] a layer, to the next input; all its beams see them."""
        length = prompt[0].get_seq_length()
        if length > self.columns:
            self._grow(length - self.columns)
        if not self.layers:
            self.tree_layers = [TreeLayer(self, each) for each in prompt]
            self.layers = [*self.tree_layers]
        number = len(self.lengths)
        for layer, each in zip(self.tree_layers, prompt, strict=True):
            layer.put(number, each)
        self._paths[number, :, :length] = torch.arange(length, device=self._paths.device)
        self.lengths.append(length)

    def leave(self, number: int) -> None:
        """Free an input: the last takes its place, and zeros the last one's, so that nothing of it meets another."""
        last = len(self.lengths) - 1
        for layer in self.tree_layers:
            layer.move(last, number)
        self._paths[number] = self._paths[last]
        self.lengths[number] = self.lengths[last]
        self.lengths.pop()

    def follow(self, number: int, parents_W: Tensor) -> None:
        """Each beam of an input goes on from one of them: it sees what that one sees."""
        self._paths[number] = self._paths[number, parents_W]

    def open_columns(self) -> None:
        """A column for the next token of every beam, which joins its path: the first that no beam of its input sees."""
        inputs, beams = len(self.lengths), self.written.shape[1]
        taken_IN = self._seen(None).any(1)
        most = int(taken_IN.sum(1).max()) + beams
        if most > self.columns:
            self._grow(most - self.columns)
            taken_IN = self._seen(None).any(1)
        self.written = taken_IN.byte().argsort(dim=1, stable=True)[:, :beams]
        self.used = max(int(self.written.max()), int(taken_IN.any(0).nonzero().max())) + 1
        for number in range(inputs):
            self._paths[number, :, self.lengths[number]] = self.written[number].int()
        self.lengths = [length + 1 for length in self.lengths]

    def positions(self) -> Tensor:
        """[I, W]: of the tokens of this step."""
        lengths_I1 = torch.tensor(self.lengths, device=self._paths.device)[:, None]
        return lengths_I1.expand(-1, self.written.shape[1]) - 1

    def paths(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of every beam, int32: its input [I·W], the columns of its tokens in their order [I·W, P], how many [I·W]."""
        inputs, beams, longest = len(self.lengths), self.written.shape[1], max(self.lengths)
        each = torch.tensor([[*range(inputs)], self.lengths], dtype=torch.int32, device=self._paths.device)
        inputs_R, counts_R = each.repeat_interleave(beams, 1)
        return inputs_R, self._paths[:inputs, :, :longest].flatten(0, 1), counts_R

    def mask(self, window: int | None = None) -> Tensor:
        """[I, 1, W, used]: what each beam looks at; of a window only so many of its newest tokens."""
        return self._seen(window)[:, None, :, : self.used]

    def _seen(self, window: int | None) -> Tensor:
        """[I, W, N]."""
        paths_IWN = self._paths[: len(self.lengths)]
        lengths_I11 = torch.tensor(self.lengths, device=paths_IWN.device)[:, None, None]
        places_N = torch.arange(self.columns, device=paths_IWN.device)
        is_on_path = places_N < lengths_I11
        if window is not None:
            is_on_path = is_on_path & (places_N >= lengths_I11 - window)
        newest_IW1 = paths_IWN.gather(2, (lengths_I11 - 1).expand(-1, paths_IWN.shape[1], -1))
        columns_IWN = torch.where(is_on_path, paths_IWN, newest_IW1).long()
        return torch.zeros_like(paths_IWN, dtype=torch.bool).scatter_(2, columns_IWN, True)

    def _grow(self, columns: int) -> None:
        columns = max(columns, GROWTH)
        for layer in self.tree_layers:
            layer.grow(columns)
        self._paths = torch.cat([self._paths, self._paths.new_zeros(*self._paths.shape[:-1], columns)], -1)
        self.columns += columns
