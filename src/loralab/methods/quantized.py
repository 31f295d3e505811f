"""What a method wants of the base that is quantised under it."""

from torch import nn

from loralab.core.plan import Method
from loralab.methods.lora import LoRA
from loralab.methods.pissa import is_pissa, principal_of
from loralab.models.nf4 import Principal


def principal_under(model: nn.Module, method: Method) -> Principal | None:
    """The part of each weight that PiSSA keeps in float; None for every other method, under which all is quantised."""
    return principal_of(model, method) if isinstance(method, LoRA) and is_pissa(method.init) else None
