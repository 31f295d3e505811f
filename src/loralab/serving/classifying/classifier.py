"""A classifier whose every row of a batch has its own adapter and its own head.

Low-rank updates are those of the engine's bank. A module that adapters have trained in full, such as the head, computes
once for every one of them that is there, and each row keeps its own; it is small beside the body.

Shapes: R rows, C outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from loralab.models.padding import row_logits, rows_together
from loralab.nn.mode import evaluating
from loralab.serving.classifying.head import Head, outputs_of
from loralab.serving.engine.bank import FactorBank, Pairs

Keys = Sequence[str | None]
"""By row: the key of an adapter that is held; None: the base."""


class Classifier:
    """Answers batches for one model, whose weights stay as they are. Not for several threads at once."""

    def __init__(self, model: PreTrainedModel, in_bank: int) -> None:
        self.bank = FactorBank(model)
        self._model, self._in_bank = model, in_bank
        self._modules = dict(model.named_modules())
        self._held: dict[str, tuple[Pairs, Head]] = {}
        self._handles: dict[str, RemovableHandle] = {}
        self._keys: Keys | None = None

    def hold(self, key: str, pairs: Pairs, head: Head) -> None:
        """Have an adapter at hand under a key."""
        self._held[key] = pairs, head
        for path in head.tensors:
            if path not in self._handles:
                self._handles[path] = self._modules[path].register_forward_hook(self._hook(path))

    def release(self, key: str) -> None:
        """Let go of it."""
        self._held.pop(key, None)
        if key in self.bank:
            self.bank.remove(key)

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], keys: Keys) -> list[Tensor]:
        """For each row the outputs [C] of its own head, in float32."""
        self._fill_bank(keys)
        found: list[Tensor] = [torch.empty(0)] * len(keys)
        with evaluating(self._model):
            for rows, part in rows_together(self._model, inputs):
                logits_RC = self._run(part, [keys[row] for row in rows])
                for row, logits_C in zip(rows, logits_RC, strict=False):
                    found[row] = logits_C[: self._outputs(keys[row])].float().cpu()
        return found

    def _run(self, inputs: Mapping[str, Tensor], keys: Keys) -> Tensor:
        """[R, the most outputs]; a row that is alone is computed twice, for products of one row round otherwise."""
        if len(keys) == 1:
            inputs, keys = {name: each.repeat(2, 1) for name, each in inputs.items()}, [*keys, *keys]
        self._keys = keys
        try:
            with self.bank.seen_by([key if key is not None and key in self.bank else None for key in keys]):
                return row_logits(self._model, {name: each.to(self._model.device) for name, each in inputs.items()})
        finally:
            self._keys = None

    def _outputs(self, key: str | None) -> int:
        return outputs_of(self._model) if key is None else len(self._held[key][1].labels)

    def _fill_bank(self, keys: Keys) -> None:
        needed = {key for key in keys if key is not None and self._held[key][0]}
        idle = [key for key in self.bank.keys if key not in needed]
        for key in idle[: max(0, len(self.bank.keys) + len(needed) - self._in_bank)]:
            self.bank.remove(key)
        for key in sorted(needed):
            if key not in self.bank:
                self.bank.put(key, self._held[key][0])

    # -- modules that were trained in full -------------------------------------------------------------------------

    def _hook(self, path: str) -> Any:
        def swap(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            keys, self._keys = self._keys, None  # what the module is called with below is not looked at again
            try:
                return output if keys is None else self._own(path, module, args, output, keys)
            finally:
                self._keys = keys

        return swap

    def _own(self, path: str, module: torch.nn.Module, args: tuple[Any, ...], output: Tensor, keys: Keys) -> Tensor:
        """The output of every row under its own adapter's tensors; what is narrower than the widest ends in NaN."""
        outputs = {key: self._under(path, module, args, key, output) for key in set(keys)}
        own = output.new_full(
            (len(keys), *output.shape[1:-1], max(each.shape[-1] for each in outputs.values())), torch.nan
        )
        for row, key in enumerate(keys):
            own[row, ..., : outputs[key].shape[-1]] = outputs[key][row]
        return own

    def _under(
        self, path: str, module: torch.nn.Module, args: tuple[Any, ...], key: str | None, output: Tensor
    ) -> Tensor:
        tensors = {} if key is None else self._held[key][1].tensors.get(path, {})
        if not tensors:
            return output
        found: Tensor = functional_call(module, {name: each.to(output.device) for name, each in tensors.items()}, args)
        return found
