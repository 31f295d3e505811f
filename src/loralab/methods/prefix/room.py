"""How many tokens of text a model can look at under its active adapter: a prefix takes up some of its context."""

from transformers import PreTrainedModel

from loralab.core.adapter import adapters_on
from loralab.core.layer import names_of
from loralab.methods.prefix.update import inserted_positions
from loralab.models.context import context_length


def text_room(model: PreTrainedModel) -> int | None:
    """Tokens, or None where the model's positions have no end."""
    context, adapters = context_length(model), adapters_on(model)
    if context is None:
        return None
    speaking = names_of(adapters.routing.active)
    return context - sum(inserted_positions(adapters.adapter(name).updates) for name in speaking)
