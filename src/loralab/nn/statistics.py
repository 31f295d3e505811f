"""Running statistics (of batch normalisation): what a pass in training changes though nothing trains it.

They belong to the base, which an adapter leaves as it is: while one is attached, such a module works with the
statistics that it has, in training too. Where a module is trained in full its statistics are the adapter's own copy,
and run on.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

RUNNING = "running_mean"


def has_statistics(module: nn.Module) -> bool:
    """Whether this module itself, not one inside it, keeps running statistics."""
    return isinstance(module._buffers.get(RUNNING), Tensor)


def statistics_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, buffer) of the statistics of a module and of those inside it: mean, variance, batches seen."""
    for path, inner in module.named_modules():
        if has_statistics(inner):
            yield from inner.named_buffers(prefix=path, recurse=False)


class HeldStatistics:
    """A module of the base that runs in evaluation mode, unless the statistics it is run with are an adapter's."""

    def __init__(self, module: nn.Module, is_adapters: Callable[[Tensor], bool]) -> None:
        self.module, self.is_adapters, self.was_training = module, is_adapters, False
        self.hooks = [
            module.register_forward_pre_hook(self._hold),
            module.register_forward_hook(self._let_go, always_call=True),
        ]

    def release(self) -> None:
        """Let the module do as it did."""
        for hook in self.hooks:
            hook.remove()

    def _hold(self, module: nn.Module, args: object) -> None:
        self.was_training = module.training
        if module.training and not self.is_adapters(getattr(module, RUNNING)):
            module.training = False

    def _let_go(self, module: nn.Module, args: object, output: object) -> None:
        module.training = self.was_training
