"""BitFit (arXiv 2106.10199; paper §5.1): nothing but the bias vectors trains."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from loralab.core.names import unwrapped
from loralab.core.plan import Plan
from loralab.errors import TargetError
from loralab.methods.beside import bias_updates, head_updates, heads_of
from loralab.methods.specification import Specification


@dataclass(frozen=True)
class BitFit(Specification):
    """Every bias of the model trains, those of its norms included, and a fresh head beside them."""

    modules_to_save: Sequence[str] | None = None
    """The task's head, trained in full and counted apart. None: it is found."""

    def plan(self, model: nn.Module) -> Plan:
        """A trained copy of every bias; TargetError for a model that has none (Llama's kind)."""
        heads = heads_of(model, self.modules_to_save)
        updates = bias_updates(model, heads)
        if not updates:
            raise TargetError(
                f"bitfit trains biases, and this {type(unwrapped(model)).__name__} has none outside its head; choose "
                "lora, or a bottleneck (adapter-h), which brings biases of its own"
            )
        return Plan(updates | head_updates(model, heads), (), tuple(heads))
