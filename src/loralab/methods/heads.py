"""Which modules of a model are a fresh task head: trained and saved in full with every adapter (paper §5.2, code).

transformers names such classes `…ForSequenceClassification`, `…ForImageClassificationWithTeacher` and the like, and
says which child is the pretrained body (`base_model_prefix`); what lies beside the body is the head. Where the body is
taken apart (CLIP's image tower), the head is known by its name.
"""

from torch import nn

from loralab.core.names import unwrapped
from loralab.models.families import HEAD_NAMES

_HEADED = ("Classification", "QuestionAnswering", "MultipleChoice", "Regression")


def fresh_heads(model: nn.Module) -> list[str]:
    """Paths of the modules beside the pretrained body of a classification-type model; empty for any other model."""
    inner = unwrapped(model)
    body = getattr(inner, "base_model_prefix", "")
    if not body or not any(_is_headed(cls.__name__) for cls in type(inner).__mro__):
        return []
    children = dict(inner.named_children())
    return [
        name
        for name, child in children.items()
        if (name != body if body in children else name in HEAD_NAMES) and next(child.parameters(), None) is not None
    ]


def _is_headed(class_name: str) -> bool:
    _, marked, task = class_name.partition("For")
    return bool(marked) and any(kind in task for kind in _HEADED)
