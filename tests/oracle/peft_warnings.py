"""PEFT's own warnings that say nothing about what we hold; every other one stays an error."""

import pytest

_MESSAGES = [
    r"Model has `tie_word_embeddings=True` and a tied layer is part of the adapter:UserWarning",
    r"LoRA adapter added to ConvNd layer with groups > 1\. Merging is not supported:UserWarning",
    r"Could not identify embedding layer\(s\) because the model is not a .* transformers model:UserWarning",
    r"fan_in_fan_out is set to (True|False) but the target module is:UserWarning",
    r"The following (rank|alpha)_pattern keys did not match any targeted module.*gate_up_proj:RuntimeWarning",
    r"Setting `save_embedding_layers` to `True` as embedding layers found in `target_modules`:UserWarning",
    r"`is_gradient_checkpointing` is deprecated:FutureWarning",
]
silenced = [pytest.mark.filterwarnings(f"ignore:{message}") for message in _MESSAGES]
