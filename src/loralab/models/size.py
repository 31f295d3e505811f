"""How many bytes a model's weights and its cache take."""

from transformers import PreTrainedModel


def weight_bytes(model: PreTrainedModel) -> int:
    """Of all parameters, each counted once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def cache_bytes(model: PreTrainedModel) -> int:
    """Keys and values of one token in all layers, as the configuration says; 0 where it does not.

    Where heads of keys and values are fewer (grouped queries) or of their own width, that counts.
    """
    config = model.config.get_text_config()
    layers, width, heads = (
        getattr(config, name, None) or 0 for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    own_heads = getattr(config, "num_key_value_heads", None) or heads
    head_width = getattr(config, "head_dim", None) or (width // heads if heads else 0)
    return 2 * int(layers) * int(own_heads) * int(head_width) * model.dtype.itemsize
