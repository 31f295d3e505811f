"""Which modules of a model are a fresh task head: trained and saved in full with every adapter (paper §5.2, code).

transformers names such classes `…ForSequenceClassification` and the like, and says which child is the pretrained
body (`base_model_prefix`); what lies beside the body is the head.
"""

from torch import nn

from loralab.core.names import unwrapped

_HEADED = ("Classification", "QuestionAnswering", "MultipleChoice", "Regression")


def fresh_heads(model: nn.Module) -> list[str]:
    """Paths of the modules beside the pretrained body of a classification-type model; empty for any other model."""
    inner = unwrapped(model)
    body = getattr(inner, "base_model_prefix", "")
    if not body or not isinstance(getattr(inner, body, None), nn.Module):
        return []
    if not any(_is_headed(name) for name in (cls.__name__ for cls in type(inner).__mro__)):
        return []
    return [
        name
        for name, child in inner.named_children()
        if name != body and any(parameter is not None for parameter in child.parameters())
    ]


def _is_headed(class_name: str) -> bool:
    _, marked, task = class_name.partition("For")
    return bool(marked) and any(task.endswith(ending) for ending in _HEADED)
