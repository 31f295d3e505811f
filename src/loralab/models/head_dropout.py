"""The dropout before a classifier's output, set by hand as the paper does for DeBERTa (Table 10, CLS dropout).

It knows nothing of training and adapters.
"""

from torch import nn
from transformers import PreTrainedModel

from loralab.errors import SpecError


def set_head_dropout(model: PreTrainedModel, probability: float) -> str:
    """Give every dropout of the classification head this probability; returns a sentence for the log.

    The head is what stands beside the pretrained body, but for a pooler, which has a dropout of its own. Raises
    SpecError for a model without a dropout there.
    """
    body = f"{model.base_model_prefix}."
    dropouts = {
        name: module
        for name, module in model.named_modules()
        if not name.startswith((body, "pooler")) and "Dropout" in type(module).__name__
    }
    for module in dropouts.values():
        setattr(module, "p" if isinstance(module, nn.Dropout) else "drop_prob", probability)
    if not dropouts:
        raise SpecError(
            f"head_dropout {probability}: {type(model).__name__} has no dropout in its head; leave head_dropout out"
        )
    return f"dropout {probability:g} in the head: {', '.join(dropouts)}"
