"""How many tokens a model can look at."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


OFFSET_BY_TYPE = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}
"""Model types whose position table has rows that no token uses: positions start after the padding's."""


def context_length(model: "PreTrainedModel") -> int | None:
    """Tokens that fit into the model, or None where its positions have no end (ALiBi, T5's relative ones, XLNet)."""
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int) or longest < 1:
        return None
    return longest - OFFSET_BY_TYPE.get(config.model_type, 0)
