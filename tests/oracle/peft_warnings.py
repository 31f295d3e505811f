"""PEFT's own warnings that say nothing about what we hold; every other one stays an error."""

import pytest

_MESSAGES = [
    r"Setting `save_embedding_layers` to `True` as embedding layers found in `target_modules`:UserWarning",
    r"`is_gradient_checkpointing` is deprecated:FutureWarning",
]
silenced = [pytest.mark.filterwarnings(f"ignore:{message}") for message in _MESSAGES]
