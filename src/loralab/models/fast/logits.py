"""What some families make of the output head's numbers before they are logits.

    cap·tanh(x/cap) (Gemma 2),   s·x (Cohere),   x/s (Granite)

Which constants a model has is in its configuration, by name; whether it uses them, and how, is for a trial to say.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

Transform = Callable[[Tensor], Tensor]

CAPS = ("final_logit_softcapping",)
SCALES = ("logit_scale", "logits_scaling")


class TransformedHead(nn.Module):
    """A head with what follows it."""

    def __init__(self, head: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.head = head
        self.transform = transform

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, H] to logits [N, V]."""
        return self.transform(self.head(hidden))


def known_transforms(model: nn.Module) -> dict[str, Transform]:
    """Those that the model's configuration has a constant for, by what they do to the logits."""
    config = getattr(model, "config", None)
    read = getattr(config, "get_text_config", lambda: config)()
    caps = [cap for name in CAPS if (cap := _number(read, name))]
    scales = [scale for name in SCALES if (scale := _number(read, name))]
    found: dict[str, Transform] = {f"capped at {cap:g}": partial(_capped, cap=cap) for cap in caps}
    found |= {f"multiplied by {scale:g}": partial(torch.mul, other=scale) for scale in scales}
    return found | {f"divided by {scale:g}": partial(torch.div, other=scale) for scale in scales}


def _capped(x: Tensor, cap: float) -> Tensor:
    return torch.tanh(x / cap) * cap


def _number(config: object, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
