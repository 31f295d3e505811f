"""How a model computes attention, by transformers' names: chosen, or refused with what there is."""

from typing import TYPE_CHECKING

from loralab.errors import ModelLoadError, SpecError, first_line
from loralab.extras import transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_attention(name: str | None) -> None:
    """Raises SpecError for a name that transformers does not know; None is its own choice.

    A kernel of the Hub (`owner/name`) is none of them: it would be somebody's program, run here.
    """
    known = ["eager", *sorted(each for each in transformers.AttentionInterface._global_mapping if "|" not in each)]
    if name is not None and name not in known:
        raise SpecError(
            f"attention {name!r} is not known to transformers {transformers.__version__}; choose {', '.join(known)}"
        )


def set_attention(model: "PreTrainedModel", name: str) -> None:
    """Let the model compute it so. Raises ModelLoadError where its class or this machine cannot."""
    problem = None
    try:
        model.set_attn_implementation(name)
    except (ImportError, ValueError, RuntimeError) as error:
        problem = first_line(error)
    if problem is None and model.config._attn_implementation != name:
        problem = f"{type(model).__name__} keeps {model.config._attn_implementation}"
    if problem is not None:
        raise ModelLoadError(
            f"attention {name} cannot be used here: {problem}; install what it needs, choose another one, or leave it "
            "out"
        )
